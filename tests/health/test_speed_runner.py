"""The collector's part: one test at a time, beside everything else, and a result whatever happens."""

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from health import speed_measure, speed_runner
from health.agent_client import AgentClient
from health.collector import Collector
from health.config import CollectorSettings, RedisSettings, SpeedTestSettings
from health.model import Node, NodeKind, NodeStatus
from health.reasons import Reason
from health.registry import Registry, RegistryError
from health.speed import Result, State
from health.speed_measure import Measured
from health.speed_runner import SpeedRunner
from tests.conftest import STALL_S
from tests.health.speed_node import SpeedNode, connect, settings

MakeNode = Callable[..., Node]
JP, US = "jp3f9a1c", "us000001"
FINE = Measured(download_mbps=80.0, upload_mbps=40.0, latency_ms=12.0, moved=50)


class Measuring:
    """Measures nothing, for as long as it is told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.now = self.most = 0
        self.go = asyncio.Event()
        self.answer: Measured | Exception = FINE

    async def __call__(self, settings: SpeedTestSettings, node: str, path: str) -> Measured:
        self.begun.append(node)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def measuring() -> Measuring:
    return Measuring()


@pytest.fixture
async def runner(registry: Registry, measuring: Measuring) -> AsyncIterator[SpeedRunner]:
    made = SpeedRunner(settings(), registry, "m1", measuring)
    yield made
    await made.close()


@pytest.fixture
def nodes(make_node: MakeNode) -> dict[str, Node]:
    return {one: make_node(one, agent=f"/{one}") for one in (JP, US)}


async def until_result(runner: SpeedRunner, registry: Registry, nodes: dict[str, Node], test_id: str) -> Result:
    async with asyncio.timeout(30):
        while (found := await registry.speed.result(test_id)) is None:
            await runner.tick(nodes)
            await asyncio.sleep(0.01)
    return found


async def test_asked_taken_measured_and_told(
    runner: SpeedRunner, registry: Registry, measuring: Measuring, nodes: dict[str, Node]
) -> None:
    await runner.tick(nodes)
    asked = await registry.speed.ask("m1", JP, "jp")
    await runner.tick(nodes)
    running = await registry.speed.find("m1", JP)
    assert running is not None
    assert running.state is State.RUNNING
    await asyncio.sleep(0)
    measuring.go.set()
    found = await until_result(runner, registry, nodes, asked.id)
    assert (found.node, found.download_mbps, found.upload_mbps, found.latency_ms) == (JP, 80, 40, 12)
    assert (found.reason, found.error, measuring.begun) == (Reason.OK, "", [JP])
    assert abs(found.at - time.time()) < 5


async def test_one_at_a_time(
    runner: SpeedRunner, registry: Registry, measuring: Measuring, nodes: dict[str, Node]
) -> None:
    other = SpeedRunner(settings(), registry, "m1", measuring)
    tests = [await registry.speed.ask("m1", JP, "jp")]
    await asyncio.sleep(0.005)
    tests.append(await registry.speed.ask("m1", US, "us"))
    for _ in range(5):
        await runner.tick(nodes)
        await other.tick(nodes)
        await asyncio.sleep(0.01)
    assert measuring.begun == [JP]
    measuring.go.set()
    for test in tests:
        await until_result(runner, registry, nodes, test.id)
    assert (sorted(measuring.begun), measuring.most) == ([JP, US], 1)
    await other.close()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": NodeStatus.DRAINING}, "the node is draining"),
        ({"status": NodeStatus.STARTING}, "the node is starting"),
        ({"kind": NodeKind.UPSTREAM}, "the node is serving"),
        (None, "there is no such node here"),
    ],
)
async def test_a_node_that_does_not_serve_is_not_touched(
    runner: SpeedRunner, registry: Registry, measuring: Measuring, make_node: MakeNode, fields: Any, words: str
) -> None:
    nodes = {} if fields is None else {JP: make_node(JP, agent="/a", **fields)}
    asked = await registry.speed.ask("m1", JP, "jp")
    found = await until_result(runner, registry, nodes, asked.id)
    assert (found.reason, found.error, measuring.begun) == (Reason.NODE_DOWN, words, [])


async def test_a_node_that_stops_serving_ends_its_test(
    runner: SpeedRunner, registry: Registry, measuring: Measuring, nodes: dict[str, Node]
) -> None:
    asked = await registry.speed.ask("m1", JP, "jp")
    await runner.tick(nodes)
    await asyncio.sleep(0)
    drained = nodes | {JP: nodes[JP].model_copy(update={"status": NodeStatus.DRAINING})}
    await runner.tick(drained)
    found = await registry.speed.result(asked.id)
    assert found is not None
    assert (found.reason, found.error) == (Reason.NODE_LOST, "the node stopped serving in the middle of the test")
    assert measuring.now == 0


async def test_a_failure_of_our_own_is_told(
    runner: SpeedRunner, registry: Registry, measuring: Measuring, nodes: dict[str, Node]
) -> None:
    measuring.answer = RuntimeError("a secret")
    measuring.go.set()
    asked = await registry.speed.ask("m1", JP, "jp")
    found = await until_result(runner, registry, nodes, asked.id)
    assert (found.reason, found.error) == (Reason.INTERNAL, "internal error, see the collector's log")


async def test_a_collector_that_dies_in_the_middle(
    runner: SpeedRunner, registry: Registry, nodes: dict[str, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_runner, "longest", lambda _: 0.1)
    monkeypatch.setattr(speed_runner, "MARGIN_S", 0.1)
    asked = await registry.speed.ask("m1", JP, "jp")
    await runner.tick(nodes)
    fresh = SpeedRunner(settings(), registry, "m1", Measuring())
    began = time.monotonic()
    found = await until_result(fresh, registry, nodes, asked.id)
    assert 0.1 < time.monotonic() - began < 2 + STALL_S
    assert found.error == "the collector of machine m1 ended in the middle of the test"
    await fresh.close()
    await runner.close()  # too late to say anything
    assert await registry.speed.result(asked.id) == found


async def test_a_collector_that_is_stopped_says_so(
    runner: SpeedRunner, registry: Registry, measuring: Measuring, nodes: dict[str, Node]
) -> None:
    asked = await registry.speed.ask("m1", JP, "jp")
    await runner.tick(nodes)
    await asyncio.sleep(0)
    await runner.close()
    found = await registry.speed.result(asked.id)
    assert found is not None
    assert (found.reason, found.error) == (
        Reason.SHUTDOWN,
        "the collector was stopped in the middle of the test",
    )
    assert measuring.now == 0
    assert await registry.speed.find("m1", JP) is None


async def test_without_redis_the_result_waits_and_nothing_is_begun(
    redis_server: Any, measuring: Measuring, nodes: dict[str, Node]
) -> None:
    redis_server.stop()
    redis_server.start("--appendonly", "yes")
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=0.25))
    runner = SpeedRunner(settings(), registry, "m1", measuring)
    asked = await registry.speed.ask("m1", JP, "jp")
    await runner.tick(nodes)
    redis_server.stop()
    await asyncio.sleep(0)
    measuring.go.set()
    await asyncio.sleep(0.01)
    for _ in range(3):
        with pytest.raises(RegistryError):
            await runner.tick(nodes)
    assert measuring.begun == [JP]
    redis_server.start("--appendonly", "yes")
    assert (await until_result(runner, registry, nodes, asked.id)).error == ""
    await runner.close()
    await registry.close()


async def test_by_the_schedule(
    registry: Registry, measuring: Measuring, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1_700_000_000.0
    monkeypatch.setattr(speed_runner.time, "time", lambda: clock)
    measuring.go.set()
    nodes = {one: make_node(one, agent="/a") for one in (JP, US)}
    nodes["gb000001"] = make_node("gb000001", agent="/a", status=NodeStatus.DRAINING)
    runner = SpeedRunner(settings(every_hours=2), registry, "m1", measuring)
    for _ in range(2 * 24 * 60):  # two days in minutes
        clock += 60
        await runner.tick(nodes)
        await asyncio.sleep(0)
    assert {one: measuring.begun.count(one) for one in (JP, US, "gb000001")} == {
        JP: pytest.approx(24, abs=1), US: pytest.approx(24, abs=1), "gb000001": 0
    }  # fmt: skip
    assert measuring.most == 1
    await runner.close()


async def test_not_by_a_schedule_that_is_off(
    registry: Registry, measuring: Measuring, nodes: dict[str, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1_700_000_000.0
    monkeypatch.setattr(speed_runner.time, "time", lambda: clock)
    runner = SpeedRunner(settings(every_hours=0), registry, "m1", measuring)
    for _ in range(50):
        clock += 3600
        await runner.tick(nodes)
    assert measuring.begun == []


@pytest.fixture
def real_nodes(tmp_path: Path) -> Iterator[list[SpeedNode]]:
    made = [SpeedNode(one, tmp_path) for one in (JP, US)]
    yield made
    for one in made:
        one.close()


async def test_others_are_sampled_meanwhile(
    registry: Registry, make_node: MakeNode, real_nodes: list[SpeedNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test at full speed, to an endpoint that never ends, in the collector's own event loop."""
    monkeypatch.setattr("health.watch.AgentClient", functools.partial(AgentClient, uid=os.getuid()))
    runner = SpeedRunner(
        settings(down="endless", seconds=3).model_copy(update={"bytes": 10**12}),  # ends by time
        registry,
        "m1",
        functools.partial(speed_measure.measure, connect=connect),
    )
    collector = Collector(CollectorSettings(interval=0.2), registry, "m1", runner)
    await registry.begin_epoch()
    for one in real_nodes:
        await registry.put_node(make_node(one.id, agent=one.path))
    asked = await registry.speed.ask("m1", JP, "jp")
    seen: dict[str, set[float]] = {JP: set(), US: set()}
    late, due = [0.0], time.monotonic()
    async with asyncio.timeout(60):
        while (found := await registry.speed.result(asked.id)) is None:
            await collector.tick()
            for node, sample in (await registry.samples(seen)).items():
                seen[node].add(sample.at)
            due += 0.2
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            late.append(time.monotonic() - due)
    await collector.close()
    assert found.error == ""
    assert found.download_mbps is not None
    for times in seen.values():
        ordered = sorted(times)
        gaps = sorted(b - a for a, b in pairwise(ordered))
        assert len(ordered) >= 10
        # One may meet a machine that stands still; a test that held up the loop would take 3 s each way.
        assert gaps[-2] < 1.0, gaps
        assert gaps[-1] < 2.5, gaps
    print(f"{found.download_mbps:.0f} and {found.upload_mbps:.0f} Mbit/s; latest tick {max(late) * 1000:.0f} ms late")

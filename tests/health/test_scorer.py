"""The scorer: whom it judges, what it keeps, who leads."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from health.config import ScorerSettings
from health.model import Node, Sample, Score, Tunnel
from health.registry import PREFIX, Registry
from health.score import FULL
from health.scorer import Scorer

MakeNode = Callable[..., Node]
SETTINGS = ScorerSettings(interval=0.1, lease=30)


def sample(node: str = "jp3f9a1c", *, at: float, **fields: Any) -> Sample:
    given = {"reachable": True, "tunnel": Tunnel.UP, "kill_switch": True, "probe_ms": 50.0}
    return Sample(node=node, at=at, **(given | fields))


@pytest.fixture
async def scorer(registry: Registry) -> AsyncIterator[Scorer]:
    made = Scorer(SETTINGS, registry)
    yield made
    await made.close()


async def score_of(registry: Registry, node: str = "jp3f9a1c") -> Score | None:
    return (await registry.scores([node])).get(node)


async def test_a_good_sample_becomes_a_score(registry: Registry, scorer: Scorer, make_node: MakeNode) -> None:
    await registry.put_node(make_node())
    await registry.put_samples("m1", [sample(at=7.0)])
    await scorer.tick()
    score = await score_of(registry)
    assert score is not None
    assert (score.value, score.healthy, score.at, score.latency_ms) == (83.33, True, 7.0, 50.0)
    assert score.terms.keys() == {"up", "latency", "delivery", "handshake", "health"}


async def test_the_same_sample_counts_once(registry: Registry, scorer: Scorer, make_node: MakeNode) -> None:
    await registry.put_node(make_node())
    await registry.put_samples("m1", [sample(at=1.0)])
    await scorer.tick()
    await registry.put_samples("m1", [sample(at=2.0, loss=0.9)])
    for _ in range(5):
        await scorer.tick()
    score = await score_of(registry)
    assert score is not None
    assert (score.terms["health"], score.healthy) == (FULL - 1, True)


async def test_hard_down_at_once_bad_after_three(registry: Registry, scorer: Scorer, make_node: MakeNode) -> None:
    await registry.put_node(make_node())
    seen = []
    losses = [0.0, 0.9, 0.9, 0.9, 0.0, 0.0]
    samples = [sample(at=float(n), loss=loss) for n, loss in enumerate(losses)]
    for one in [*samples, sample(at=90.0, tunnel=Tunnel.DOWN)]:
        await registry.put_samples("m1", [one])
        await scorer.tick()
        score = await score_of(registry)
        assert score is not None
        seen.append(score.healthy)
    assert seen == [True, True, True, False, False, True, False]
    assert score.value == 0


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_clock_that_is_set_moves_nothing(
    registry: Registry, scorer: Scorer, make_node: MakeNode, jump: float
) -> None:
    await registry.put_node(make_node())
    seen = []
    for at in (5000.0, 5001.0 + jump, 5002.0 + jump):
        await registry.put_samples("m1", [sample(at=at)])
        await scorer.tick()
        score = await score_of(registry)
        assert score is not None
        seen.append((score.at, score.value, score.healthy))
    assert seen == [(at, 83.33, True) for at in (5000.0, 5001.0 + jump, 5002.0 + jump)]


async def test_collector_gone_is_not_nodes_gone(
    registry: Registry, scorer: Scorer, make_node: MakeNode, raw: Any
) -> None:
    await registry.put_node(make_node())
    await registry.put_samples("m1", [sample(at=1.0)])
    await scorer.tick()
    before = await score_of(registry)
    raw.delete(PREFIX + "sample:jp3f9a1c", PREFIX + "lease:collector:m1", PREFIX + "score:jp3f9a1c")
    for _ in range(6):
        await scorer.tick()
    assert before is not None
    assert await score_of(registry) == before
    # Another machine's collector says nothing about this one's nodes.
    for _ in range(6):
        await registry.put_samples("m2", [])
        await scorer.tick()
    assert await score_of(registry) == before


async def test_no_sample_while_the_collector_lives_is_unreachable_after_three_looks(
    registry: Registry, scorer: Scorer, make_node: MakeNode, raw: Any
) -> None:
    await registry.put_node(make_node())
    await registry.put_samples("m1", [sample(at=1.0)])
    await scorer.tick()
    raw.delete(PREFIX + "sample:jp3f9a1c")
    seen = []
    for _ in range(4):
        await registry.put_samples("m1", [])
        await scorer.tick()
        score = await score_of(registry)
        assert score is not None
        seen.append((score.healthy, score.value))
    assert seen == [(True, 83.33), (True, 83.33), (False, 0), (False, 0)]


async def test_looks_without_a_collector_do_not_count(
    registry: Registry, scorer: Scorer, make_node: MakeNode, raw: Any
) -> None:
    await registry.put_node(make_node())
    await registry.put_samples("m1", [sample(at=1.0)])
    await scorer.tick()
    for _ in range(4):
        raw.delete(PREFIX + "sample:jp3f9a1c")
        await registry.put_samples("m1", [])
        await scorer.tick()
        await scorer.tick()
        raw.delete(PREFIX + "lease:collector:m1")
        await scorer.tick()
    score = await score_of(registry)
    assert score is not None
    assert score.healthy


async def test_a_restart_does_not_flap(registry: Registry, scorer: Scorer, make_node: MakeNode) -> None:
    await registry.put_node(make_node())
    await registry.put_node(make_node("us000001"))
    full, fallen = sample(at=1.0), sample("us000001", at=1.0, loss=0.9)
    await registry.put_samples("m1", [full, fallen])
    await scorer.tick()
    before = await registry.scores(["jp3f9a1c", "us000001"])
    await scorer.close()
    other = Scorer(SETTINGS, registry)
    await other.tick()
    assert await registry.scores(["jp3f9a1c", "us000001"]) == before
    # One bad sample does not make the healthy one fall, one good one does not lift the fallen one.
    await registry.put_samples("m1", [sample(at=2.0, loss=0.9), sample("us000001", at=2.0)])
    await other.tick()
    after = await registry.scores(["jp3f9a1c", "us000001"])
    assert (after["jp3f9a1c"].healthy, after["us000001"].healthy) == (True, False)
    await other.close()


async def test_direct_needs_no_collector_and_upstream_has_no_score(
    registry: Registry, scorer: Scorer, make_node: MakeNode
) -> None:
    await registry.put_node(make_node("zz000001", kind="direct"))
    await registry.put_node(make_node("us000001", kind="upstream"))
    await registry.put_node(make_node("gb000001", status="stopped"))
    for _ in range(4):
        await scorer.tick()
    scores = await registry.scores(["zz000001", "us000001", "gb000001"])
    assert {node: (s.value, s.healthy) for node, s in scores.items()} == {"zz000001": (100, True)}


async def test_handshake_age_counts_for_wireguard_only(registry: Registry, scorer: Scorer, make_node: MakeNode) -> None:
    await registry.put_node(make_node("jp000001", protocol="wireguard"))
    await registry.put_node(make_node("jp000002", protocol="openvpn_udp"))
    await registry.put_samples("m1", [sample(n, at=1.0, handshake_age_s=3000.0) for n in ("jp000001", "jp000002")])
    await scorer.tick()
    scores = await registry.scores(["jp000001", "jp000002"])
    assert (scores["jp000001"].value, scores["jp000002"].value) == (0, 83.33)


async def test_one_leads_and_a_standby_takes_over(registry: Registry, scorer: Scorer, make_node: MakeNode) -> None:
    await registry.put_node(make_node("zz000001", kind="direct"))
    standby = Scorer(SETTINGS, registry)
    await scorer.tick()
    await registry.delete_node("zz000001")
    await registry.put_node(make_node("zz000002", kind="direct"))
    await standby.tick()
    assert await score_of(registry, "zz000002") is None
    await standby.close()
    await scorer.close()
    await standby.tick()
    assert await score_of(registry, "zz000002") is not None
    await standby.close()


async def test_goes_on_after_redis_came_back_empty(
    own_registry: Registry, redis_server: Any, make_node: MakeNode
) -> None:
    scorer = Scorer(SETTINGS, own_registry)
    await own_registry.put_node(make_node())
    await own_registry.put_samples("m1", [sample(at=1.0)])
    await scorer.tick()
    redis_server.stop()
    for _ in range(3):
        await scorer.tick()
    redis_server.start()
    await scorer.tick()
    await own_registry.put_node(make_node())
    await scorer.tick()
    await own_registry.put_samples("m1", [sample(at=2.0)])
    await scorer.tick()
    score = await score_of(own_registry)
    assert score is not None
    assert (score.at, score.healthy) == (2.0, True)
    await scorer.close()


async def test_a_silent_redis_does_not_hold_a_tick(own_registry: Registry, redis_server: Any) -> None:
    scorer = Scorer(SETTINGS, own_registry)
    await scorer.tick()
    redis_server.pause()
    started = time.monotonic()
    await scorer.tick()
    assert time.monotonic() - started < 1.2
    await scorer.close()
    redis_server.resume()


PROGRAM = """
import asyncio, sys
from health.config import RedisSettings, ScorerSettings
from health.scorer import run
asyncio.run(run(ScorerSettings(), RedisSettings(url=sys.argv[1])))
"""


def start(url: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-u", "-c", PROGRAM, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


async def until_it_says(process: "subprocess.Popen[str]", words: str) -> None:
    """Read the log until `words` come up, for at most 20 s."""
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while True:
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, "ended"
            if words in line:
                return


async def holder_other_than(raw: Any, old: str | None, seconds: float) -> str:
    """Who leads, once it is somebody else than `old`."""
    async with asyncio.timeout(seconds):
        while (found := raw.get(PREFIX + "lease:scorer")) in (None, old):
            await asyncio.sleep(0.02)
    return str(found)


async def test_real_processes_hand_over_and_end_on_a_signal(redis_url: str, raw: Any) -> None:
    processes = [start(redis_url)]
    try:
        first = await holder_other_than(raw, None, 20)
        processes.append(start(redis_url))
        await until_it_says(processes[1], "standing by")
        assert raw.get(PREFIX + "lease:scorer") == first
        processes[0].kill()
        second = await holder_other_than(raw, first, 5)
        processes.append(start(redis_url))
        await until_it_says(processes[2], "standing by")
        processes[1].send_signal(signal.SIGTERM)
        third = await holder_other_than(raw, second, 2.5)
        assert processes[1].wait(5) == 0
        processes[2].send_signal(signal.SIGINT)
        assert processes[2].wait(5) == 0
        assert raw.get(PREFIX + "lease:scorer") is None
        assert len({first, second, third}) == 3
    finally:
        for process in processes:
            process.kill()
            process.communicate()

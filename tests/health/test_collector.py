"""The collector against stand-in agents and a real Redis."""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from health.agent_client import AgentClient
from health.collector import Collector
from health.config import CollectorSettings, ScorerSettings
from health.model import Node, Sample, Tunnel
from health.registry import Registry
from health.score import direct_sample
from health.scorer import Scorer
from tests.conftest import STALL_S

MakeNode = Callable[..., Node]
MakeAgent = Callable[..., Any]
JP, US, GB = "jp3f9a1c", "us000001", "gb000001"
SETTINGS = CollectorSettings(interval=0.05, timeout=0.5, lease=1.0)


@pytest.fixture(autouse=True)
def _agents_run_as_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("health.watch.AgentClient", functools.partial(AgentClient, uid=os.getuid()))


@pytest.fixture
async def collector(registry: Registry) -> AsyncIterator[Collector]:
    await registry.begin_epoch()
    made = Collector(SETTINGS, registry, "m1")
    yield made
    await made.close()


async def until(
    collector: Collector, registry: Registry, condition: Callable[[dict[str, Sample]], bool], seconds: float = 20
) -> dict[str, Sample]:
    """Tick until the samples in Redis satisfy `condition`; returns them."""
    async with asyncio.timeout(seconds):
        while True:
            await collector.tick()
            samples = await registry.samples([JP, US, GB])
            if condition(samples):
                return samples
            await asyncio.sleep(0.02)


def reached(node: str) -> Callable[[dict[str, Sample]], bool]:
    return lambda samples: node in samples and samples[node].reachable


def lost(node: str) -> Callable[[dict[str, Sample]], bool]:
    return lambda samples: node in samples and not samples[node].reachable


async def test_what_the_agent_says_is_written(
    collector: Collector, registry: Registry, make_node: MakeNode, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    agent.sample |= {"loss": 0.25, "handshake_age_s": 31.5, "rx_bytes": 10, "tx_bytes": 20, "colour": "blue"}
    agent.sample |= {"reachable": False, "schema": 9, "at": 1, "refused": 3}  # not for the agent to say
    await registry.put_node(make_node(agent=agent.path))
    sample = (await until(collector, registry, reached(JP)))[JP]
    assert abs(sample.at - time.time()) < 5
    assert sample == Sample(
        node=JP,
        at=sample.at,
        reachable=True,
        tunnel=Tunnel.UP,
        generation=1,
        kill_switch=True,
        probe_ms=20.0,
        loss=0.25,
        handshake_age_s=31.5,
        rx_bytes=10,
        tx_bytes=20,
    )
    assert await registry.collectors(["m1"]) == {"m1"}


async def test_dead_agent_is_told_at_once_and_found_again(
    collector: Collector, registry: Registry, make_node: MakeNode, make_agent: MakeAgent
) -> None:
    agent = make_agent(start=False)
    await registry.put_node(make_node(agent=agent.path))
    await until(collector, registry, lost(JP))
    agent.start()
    await until(collector, registry, reached(JP))
    agent.stop()
    await until(collector, registry, lost(JP), seconds=1 + STALL_S)
    agent.start()
    await until(collector, registry, reached(JP))


async def test_one_silent_agent_holds_nobody_up(
    collector: Collector, registry: Registry, make_node: MakeNode, make_agent: MakeAgent
) -> None:
    jp, us = make_agent(JP), make_agent(US)
    await registry.put_node(make_node(JP, agent=jp.path))
    await registry.put_node(make_node(US, agent=us.path))
    await until(collector, registry, lambda s: reached(JP)(s) and reached(US)(s))
    us.answers["sample"] = us.answers["hello"] = lambda _: []
    started = time.monotonic()
    slow, stamps = 0, set()
    while time.monotonic() - started < 1.2 or len(stamps) <= 8:
        assert time.monotonic() - started < 20
        before = time.monotonic()
        await collector.tick()
        slow += time.monotonic() - before >= 0.4
        stamps.add((await registry.samples([JP]))[JP].at)
        await asyncio.sleep(0.02)
    assert slow <= 1, "one may meet a machine that stands still; to wait for the silent one takes 0.5 s each time"
    # A silent agent may be a busy machine: told after three questions, here 1.5 s.
    samples = await until(collector, registry, lost(US))
    assert samples[JP].reachable
    us.answers["sample"], us.answers["hello"] = (lambda _: [{"sample": us.sample}]), (lambda _: [us.hello])
    await until(collector, registry, reached(US))


async def test_an_agent_that_dies_is_told_before_the_next_round(
    registry: Registry, make_node: MakeNode, make_agent: MakeAgent
) -> None:
    """Within 0.5 s, though the collector looks once in two seconds."""
    collector = Collector(CollectorSettings(interval=2, lease=4), registry, "m1")
    agent = make_agent()
    await registry.put_node(make_node(agent=agent.path))
    try:
        async with asyncio.timeout(30):
            while not reached(JP)(await registry.samples([JP])):
                await collector.tick()
                await asyncio.sleep(0.02)
        agent.stop()
        died = time.monotonic()
        async with asyncio.timeout(20):
            while not lost(JP)(await registry.samples([JP])):
                await asyncio.sleep(0.005)
        assert time.monotonic() - died < 0.5 * 2 + STALL_S  # nobody ticks: the next round never comes
    finally:
        await collector.close()


@pytest.mark.parametrize("what", ["tunnel", "connect_ms"])
async def test_what_should_not_wait_is_written_before_the_next_round(
    registry: Registry, make_node: MakeNode, make_agent: MakeAgent, what: str
) -> None:
    """A tunnel that went down is asked about and told at once, a slow one as soon as it was asked again."""
    settings = CollectorSettings(interval=2 if what == "tunnel" else 0.3, lease=4)
    collector = Collector(settings, registry, "m1")
    agent = make_agent()
    agent.sample["connect_ms"] = 20.0
    await registry.put_node(make_node(agent=agent.path))
    try:
        async with asyncio.timeout(30):
            while not reached(JP)(await registry.samples([JP])):
                await collector.tick()
                await asyncio.sleep(0.02)
        new = {"tunnel": "down", "connect_ms": 520.0}[what]
        agent.sample |= {what: new}
        if what == "tunnel":
            agent.push({"op": "down", "generation": 1})
        changed = time.monotonic()
        async with asyncio.timeout(20):
            while getattr((await registry.samples([JP]))[JP], what) != new:  # nobody ticks
                await asyncio.sleep(0.005)
        assert time.monotonic() - changed < 0.5 * 2 + STALL_S
    finally:
        await collector.close()


@pytest.mark.parametrize("jump", [3600, -3600])
async def test_the_wall_clock_jumps(
    collector: Collector,
    registry: Registry,
    raw: Any,
    make_node: MakeNode,
    make_agent: MakeAgent,
    monkeypatch: pytest.MonkeyPatch,
    jump: float,
) -> None:
    """That of the whole machine: Redis ends by it what is to end, forward at once, backward an hour too late."""
    agent = make_agent()
    await registry.put_node(make_node(agent=agent.path))
    scorer = Scorer(ScorerSettings(), registry)

    async def judged(seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await collector.tick()
            await scorer.tick()
            await asyncio.sleep(0.05)
            assert (await registry.samples([JP]))[JP].reachable
            assert (await registry.scores([JP]))[JP].healthy

    await until(collector, registry, reached(JP))
    await judged(0.5)
    before = (await registry.scores([JP]))[JP]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    mortal = {key: left for key in raw.scan_iter("vx:1:*") if (left := raw.pttl(key)) > 0}
    assert f"vx:1:sample:{JP}" in mortal
    for key, left in mortal.items():
        raw.pexpire(key, max(left - int(jump * 1000), 0))
    await judged(2)
    after = (await registry.scores([JP]))[JP]
    assert abs(after.at - before.at - jump) < 60, "it was judged anew"
    assert after.value == before.value
    agent.stop()
    await until(collector, registry, lost(JP))
    await scorer.close()


async def test_one_of_two_writes(registry: Registry, raw: Any, make_node: MakeNode, make_agent: MakeAgent) -> None:
    lasting = SETTINGS.model_copy(update={"lease": 60.0})
    collector, other = (Collector(lasting, registry, "m1") for _ in range(2))
    await registry.begin_epoch()
    agent = make_agent()
    await registry.put_node(make_node(agent=agent.path))
    try:
        await until(collector, registry, reached(JP))
        async with asyncio.timeout(20):
            while len(agent.peers) < 2:
                await other.tick()
                await asyncio.sleep(0.01)
        raw.delete(f"vx:1:sample:{JP}")
        await asyncio.sleep(0.1)
        await other.tick()
        assert await registry.samples([JP]) == {}, "it stands by"
        await collector.close()
        await until(other, registry, reached(JP))  # before the lease would have ended
    finally:
        await collector.close()
        await other.close()


async def test_nodes_come_move_and_go(
    collector: Collector, registry: Registry, make_node: MakeNode, make_agent: MakeAgent
) -> None:
    one, other = make_agent(), make_agent()
    await registry.put_node(make_node(agent=one.path))
    await until(collector, registry, reached(JP))
    await registry.put_node(make_node(agent=other.path))
    async with asyncio.timeout(20):
        while one.peers or not other.peers:
            await collector.tick()
            await asyncio.sleep(0.01)
    await registry.put_node(make_node(agent=other.path, status="stopped"))
    async with asyncio.timeout(20):
        while other.peers:
            await collector.tick()
            await asyncio.sleep(0.01)


async def test_only_this_machines_nodes_that_can_be_asked(
    collector: Collector, registry: Registry, make_node: MakeNode, make_agent: MakeAgent
) -> None:
    agents = [make_agent(JP) for _ in range(4)]
    await registry.put_node(make_node("jp000001", agent=agents[0].path, machine="m2"))
    await registry.put_node(make_node("jp000002", agent=agents[1].path, kind="upstream"))
    await registry.put_node(make_node("jp000003", agent=agents[2].path, status="requested"))
    await registry.put_node(make_node("jp000004", agent=agents[3].path, status="failed"))
    await registry.put_node(make_node("jp000005", agent=""))
    await registry.put_node(make_node("zz000001", kind="direct"))
    await registry.put_node(make_node("zz000002", kind="direct", machine="m2"))
    for _ in range(10):
        await collector.tick()
        await asyncio.sleep(0.02)
    samples = await registry.samples(await registry.nodes())
    assert samples == {"zz000001": direct_sample("zz000001", samples["zz000001"].at)}
    assert all(agent.asked == [] for agent in agents)


async def test_redis_stopped_silent_and_empty(
    own_registry: Registry, redis_server: Any, make_node: MakeNode, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    node = make_node(agent=agent.path)
    collector = Collector(SETTINGS, own_registry, "m1")
    try:
        await own_registry.put_node(node)
        await own_registry.begin_epoch()
        await until(collector, own_registry, reached(JP))
        redis_server.stop()
        asked = len(agent.asked)
        async with asyncio.timeout(20):
            while len(agent.asked) < asked + 5:
                await collector.tick()
                await asyncio.sleep(0.02)
        redis_server.start()
        await collector.tick()
        redis_server.pause()
        before = time.monotonic()
        await collector.tick()
        assert time.monotonic() - before < 1.2 + STALL_S
        redis_server.resume()
        for _ in range(5):
            await collector.tick()
        # Empty: control has not written its records again. The same connection serves all along.
        assert len(agent.peers) == 1
        await own_registry.put_node(node)
        await own_registry.begin_epoch()
        await until(collector, own_registry, reached(JP))
        assert agent.asked.count("hello") == 1
        await own_registry.delete_node(JP)
        async with asyncio.timeout(20):
            while agent.peers:
                await collector.tick()
                await asyncio.sleep(0.01)
    finally:
        await collector.close()


async def test_close_leaves_no_task_and_no_connection(
    registry: Registry, make_node: MakeNode, make_agent: MakeAgent
) -> None:
    before = asyncio.all_tasks()
    collector = Collector(SETTINGS, registry, "m1")
    agent, silent = make_agent(JP), make_agent(US)
    silent.answers["hello"] = lambda _: []
    await registry.put_node(make_node(JP, agent=agent.path))
    await registry.put_node(make_node(US, agent=silent.path))
    await until(collector, registry, reached(JP))
    await collector.close()
    assert asyncio.all_tasks() == before
    async with asyncio.timeout(20):
        while agent.peers or silent.peers:
            await asyncio.sleep(0.01)


PROGRAM = """
import asyncio, functools, os, sys
from health import collector, watch
from health.agent_client import AgentClient
from health.config import CollectorSettings, RedisSettings
watch.AgentClient = functools.partial(AgentClient, uid=os.getuid())
asyncio.run(collector.run(CollectorSettings(), RedisSettings(url=sys.argv[1]), "m1"))
"""
SCORER = """
import asyncio, sys
from health.config import RedisSettings, ScorerSettings
from health.scorer import run
asyncio.run(run(ScorerSettings(), RedisSettings(url=sys.argv[1])))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_real_process_ends_on_a_signal(
    registry: Registry, redis_url: str, make_node: MakeNode, number: signal.Signals
) -> None:
    await registry.put_node(make_node("zz000001", kind="direct"))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, redis_url], stdout=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(40):
            while not await registry.samples(["zz000001"]):
                await asyncio.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=lambda how: how.name)
async def test_a_standby_takes_over(
    registry: Registry, redis_url: str, raw: Any, make_node: MakeNode, make_agent: MakeAgent, how: signal.Signals
) -> None:
    """Real processes: two collectors and a scorer. Within 5 s; the score stays where it was meanwhile."""
    await registry.begin_epoch()
    agent = make_agent()
    await registry.put_node(make_node(agent=agent.path))
    lease = "vx:1:lease:collecting:m1"
    with contextlib.ExitStack() as stack:

        def start(program: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([sys.executable, "-c", program, redis_url], stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        async def wait_for(condition: Callable[[], Awaitable[object]], seconds: float) -> float:
            began = time.monotonic()
            async with asyncio.timeout(seconds):
                while not await condition():
                    await asyncio.sleep(0.01)
            return time.monotonic() - began

        async def healthy() -> bool:
            scores = await registry.scores([JP])
            return JP in scores and scores[JP].healthy

        async def both() -> bool:
            return len(agent.peers) == 2

        async def fresh() -> bool:
            return (sample := (await registry.samples([JP])).get(JP)) is not None and sample.at > killed_at

        first = start(PROGRAM)
        start(SCORER)
        await wait_for(healthy, 40)
        holder = raw.get(lease)
        start(PROGRAM)
        await wait_for(both, 40)
        first.send_signal(how)
        await asyncio.sleep(0.1)
        killed_at, score = time.time(), (await registry.scores([JP]))[JP].value
        took = await wait_for(fresh, 5 * 2)
        assert took < 5 + STALL_S
        assert raw.get(lease) not in (None, holder)
        assert await healthy()
        assert (await registry.scores([JP]))[JP].value == score
        if how is signal.SIGSTOP:
            second = raw.get(lease)
            first.send_signal(signal.SIGCONT)
            await asyncio.sleep(2.5)
            assert raw.get(lease) == second, "who was away stands by"
            assert await healthy()
        print(f"a standby wrote {took:.2f} s after {how.name}")

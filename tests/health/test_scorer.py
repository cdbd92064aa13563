"""The scorer: whom it judges, what it keeps, who leads."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

import health.scorer
from health.config import ScorerSettings
from health.model import Node, Sample, Score, Tunnel
from health.registry import PREFIX, Registry
from health.report import Counts, Report
from health.score import FULL, MEANING
from health.scorer import Scorer
from health.scorer_metrics import IGNORED
from tests.conftest import STALL_S

MakeNode = Callable[..., Node]
SETTINGS = ScorerSettings(interval=0.1, lease=30)
WALL = float(int(time.time()))


def sample(node: str = "jp3f9a1c", *, at: float, **fields: Any) -> Sample:
    given = {"reachable": True, "tunnel": Tunnel.UP, "kill_switch": True, "probe_ms": 50.0}
    return Sample(node=node, at=WALL + at, **(given | fields))


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
    assert (score.value, score.healthy, score.at, score.latency_ms) == (96.15, True, WALL + 7.0, 50.0)
    assert score.terms.keys() == MEANING.keys()


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
    assert seen == [(WALL + at, 96.15, True) for at in (5000.0, 5001.0 + jump, 5002.0 + jump)]


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
    assert seen == [(True, 96.15), (True, 96.15), (False, 0), (False, 0)]


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


async def test_direct_and_upstream_need_no_collector(registry: Registry, scorer: Scorer, make_node: MakeNode) -> None:
    await registry.put_node(make_node("zz000001", kind="direct"))
    await registry.put_node(make_node("us000001", kind="upstream"))
    await registry.put_node(make_node("gb000001", status="stopped"))
    for _ in range(4):
        await scorer.tick()
    scores = await registry.scores(["zz000001", "us000001", "gb000001"])
    assert {node: (s.value, s.healthy) for node, s in scores.items()} == {
        "zz000001": (100, True),
        "us000001": (50, True),
    }


async def test_an_upstream_is_scored_by_what_gateways_say(
    registry: Registry, scorer: Scorer, make_node: MakeNode
) -> None:
    await registry.put_node(make_node("us000001", kind="upstream"))
    await registry.put_node(make_node("us000002", kind="upstream"))
    for told in range(1, 8):
        counts = {
            "us000001": Counts(reached=30 * told, dial_ms=3000.0 * told, quickest_ms=100.0),
            "us000002": Counts(reached=told, node_failures=30 * told, dial_ms=100.0 * told, quickest_ms=100.0),
        }
        await registry.reports.put(Report(worker="0" * 16, gateway="m1:7", nodes=counts))
        await scorer.tick()
    scores = await registry.scores(["us000001", "us000002"])
    assert (scores["us000001"].value, scores["us000001"].healthy) == (86.21, True)
    assert scores["us000001"].seen["dial_ms"] == 100
    assert (round(scores["us000002"].value), scores["us000002"].healthy) == (0, False)


@pytest.mark.parametrize(
    "lie",
    [
        {"probe_ms": "NaN"},
        {"loss": -0.5},
        {"at": 1e300},
        {"at": WALL + 10 * 86_400},
        {"at": WALL - 10 * 86_400},
        {"node": "jp3f9a1d", "loss": 1.0},
        {"node": "us000009", "loss": 1.0},
    ],
)
async def test_a_sample_that_lies_is_counted_and_moves_nothing(
    registry: Registry, scorer: Scorer, make_node: MakeNode, raw: Any, lie: dict[str, Any]
) -> None:
    await registry.put_node(make_node())
    await registry.put_node(make_node("jp3f9a1d"))
    await registry.put_samples("m1", [sample(at=1.0), sample("jp3f9a1d", at=1.0)])
    await scorer.tick()
    before = await registry.scores(["jp3f9a1c", "jp3f9a1d"])
    text = json.dumps(json.loads(sample(at=2.0, loss=1.0).dump()) | lie).replace('"NaN"', "NaN")
    ignored = _ignored()
    for _ in range(6):
        await registry.put_samples("m1", [sample("jp3f9a1d", at=1.0)])
        raw.set(PREFIX + "sample:jp3f9a1c", text)
        await scorer.tick()
    assert await registry.scores(["jp3f9a1c", "jp3f9a1d"]) == before
    assert _ignored() == ignored + 6


def _ignored() -> float:
    return sum(one.value for family in IGNORED.collect() for one in family.samples if one.name.endswith("_total"))


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_the_scorers_own_clock_may_jump(
    registry: Registry, scorer: Scorer, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    for node in ("jp000001", "jp000002"):
        await registry.put_node(make_node(node))
    await registry.put_node(make_node("us000001", kind="upstream"))
    for at in range(6):
        if at == 3:
            jumped = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + jump)
            monkeypatch.setattr(health.scorer, "time", jumped)
        await registry.put_samples("m1", [sample(node, at=float(at)) for node in ("jp000001", "jp000002")])
        await scorer.tick()
        scores = await registry.scores(["jp000001", "jp000002", "us000001"])
        assert [score.healthy and not score.ejected for score in scores.values()] == [True] * 3


async def test_handshake_age_counts_for_wireguard_only(registry: Registry, scorer: Scorer, make_node: MakeNode) -> None:
    await registry.put_node(make_node("jp000001", protocol="wireguard"))
    await registry.put_node(make_node("jp000002", protocol="openvpn_udp"))
    await registry.put_samples("m1", [sample(n, at=1.0, handshake_age_s=3000.0) for n in ("jp000001", "jp000002")])
    await scorer.tick()
    scores = await registry.scores(["jp000001", "jp000002"])
    assert (scores["jp000001"].value, scores["jp000002"].value) == (0, 96.15)


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
    assert (score.at, score.healthy) == (WALL + 2.0, True)
    await scorer.close()


async def test_a_silent_redis_does_not_hold_a_tick(own_registry: Registry, redis_server: Any) -> None:
    scorer = Scorer(SETTINGS, own_registry)
    await scorer.tick()
    redis_server.pause()
    started = time.monotonic()
    await scorer.tick()
    assert time.monotonic() - started < 1.2 + STALL_S
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
    """Read the log until `words` come up, for at most 40 s."""
    assert process.stdout is not None
    async with asyncio.timeout(40):
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


async def test_a_killed_scorers_standby_scores_within_5_s(
    redis_url: str, registry: Registry, make_node: MakeNode, raw: Any
) -> None:
    await registry.put_node(make_node())
    processes = [start(redis_url)]
    try:
        await holder_other_than(raw, None, 40)
        processes.append(start(redis_url))
        await until_it_says(processes[1], "standing by")
        processes[0].kill()
        killed = time.monotonic()
        processes[0].wait()
        async with asyncio.timeout(5 + STALL_S):
            while True:  # what was scored last says how things stood after the kill
                await registry.put_samples("m1", [sample(at=time.time() - WALL, loss=0.5)])
                await asyncio.sleep(0.1)
                score = await score_of(registry)
                if score is not None and score.terms["delivery"] < 0.2:
                    break
        assert time.monotonic() - killed < 5 + STALL_S
    finally:
        for process in processes:
            process.kill()
            process.communicate()


async def test_real_processes_hand_over_and_end_on_a_signal(redis_url: str, raw: Any) -> None:
    processes = [start(redis_url)]
    try:
        first = await holder_other_than(raw, None, 40)
        processes.append(start(redis_url))
        await until_it_says(processes[1], "standing by")
        assert raw.get(PREFIX + "lease:scorer") == first
        processes[0].kill()
        second = await holder_other_than(raw, first, 5 + STALL_S)
        processes.append(start(redis_url))
        await until_it_says(processes[2], "standing by")
        processes[1].send_signal(signal.SIGTERM)
        third = await holder_other_than(raw, second, 2.5 + STALL_S)
        assert processes[1].wait(30) == 0
        processes[2].send_signal(signal.SIGINT)
        assert processes[2].wait(30) == 0
        assert raw.get(PREFIX + "lease:scorer") is None
        assert len({first, second, third}) == 3
    finally:
        for process in processes:
            process.kill()
            process.communicate()

"""One agent, asked by one watch: what becomes of its answers, of its silence and of its lies."""

import asyncio
import functools
import itertools
import math
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog

from health.agent_client import AgentClient
from health.config import CollectorSettings
from health.model import Sample
from health.watch import Watch

MakeAgent = Callable[..., Any]
JP, US = "jp3f9a1c", "us000001"
SETTINGS = CollectorSettings(interval=0.05, timeout=0.5, lease=1.0)


@pytest.fixture(autouse=True)
def _agents_run_as_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("health.watch.AgentClient", functools.partial(AgentClient, uid=os.getuid()))


@pytest.fixture
async def watch(make_agent: MakeAgent) -> AsyncIterator[Callable[..., Watch]]:
    """Starts watches of node `jp3f9a1c`."""
    made: list[Watch] = []

    def start(agent: Any, urgent: Callable[[], None] = lambda: None) -> Watch:
        made.append(Watch(JP, agent.path, SETTINGS, urgent))
        return made[-1]

    yield start
    for one in made:
        await one.close()


async def told(watch: Watch, condition: Callable[[Sample], object]) -> list[Sample]:
    """All samples up to the first that satisfies `condition`."""
    samples: list[Sample] = []
    async with asyncio.timeout(20):
        while not samples or not condition(samples[-1]):
            await asyncio.sleep(0.005)
            sample = watch.take()
            if sample is not None:
                samples.append(sample)
    return samples


def reached(sample: Sample) -> bool:
    return sample.reachable


def lost(sample: Sample) -> bool:
    return not sample.reachable


async def test_asked_again_and_again_over_one_connection(watch: Callable[..., Watch], make_agent: MakeAgent) -> None:
    agent = make_agent()
    began = time.time()
    samples = await told(watch(agent), lambda sample: sample.at > began + 0.4)
    assert all(sample.reachable for sample in samples)
    assert agent.asked.count("hello") == len(agent.peers) == 1
    assert 3 <= agent.asked.count("sample") <= 2 + (time.time() - began) / SETTINGS.interval


async def test_a_sample_is_taken_once(watch: Callable[..., Watch], make_agent: MakeAgent) -> None:
    one = watch(make_agent())
    await told(one, reached)
    assert one.take() is None


async def test_one_question_without_answer_is_forgiven(watch: Callable[..., Watch], make_agent: MakeAgent) -> None:
    agent = make_agent()
    one = watch(agent)
    await told(one, reached)
    answer = agent.answers["sample"]
    for _ in range(3):
        asked = len(agent.asked)
        agent.answers["sample"] = lambda _: []
        async with asyncio.timeout(20):
            while len(agent.asked) == asked:
                await asyncio.sleep(0.01)
        agent.answers["sample"] = answer
        since = time.time()
        assert all(sample.reachable for sample in await told(one, lambda sample, since=since: sample.at > since + 0.1))
    assert agent.asked.count("hello") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": -1},
        {"loss": math.nan},
        {"probe_ms": math.inf},
        {"connect_ms": 1e9},
        {"rx_bytes": 1 << 63},
        {"memory_bytes": -1},
        {"targets": {f"198.18.0.{number}:80": 1 for number in range(9)}},
        {"targets": {"x" * 4000: 1}},
        {"tunnel": "sideways"},
        {"rx_bytes": "many"},
        {"node": US},
        None,
        [],
    ],
    ids=lambda wrong: str(wrong)[:40],
)
async def test_nonsense_makes_the_node_unreachable(
    watch: Callable[..., Watch], make_agent: MakeAgent, wrong: Any
) -> None:
    agent = make_agent()
    agent.answers["sample"] = lambda _: [{"sample": {**agent.sample, **wrong} if wrong else wrong}]
    (first, *_) = await told(watch(agent), lost)
    assert not first.reachable


async def test_a_liar_is_counted_and_named_once(watch: Callable[..., Watch], make_agent: MakeAgent) -> None:
    agent = make_agent()
    honest, turns = dict(agent.sample), itertools.count()
    agent.answers["sample"] = lambda _: [{"sample": {**honest, "loss": math.nan if next(turns) % 2 else 0.0}}]
    with structlog.testing.capture_logs() as logged:
        one = watch(agent)
        await told(one, lambda sample: sample.refused >= 5)
        await told(one, reached)
    refusals = [line for line in logged if line["event"] == "sample refused"]
    assert [(line["node"], line["reason"]) for line in refusals] == [(JP, "its loss cannot be")]
    assert sum(line["event"] in ("agent answers", "agent does not answer") for line in logged) == 1


async def test_an_agent_of_another_node_is_not_believed(watch: Callable[..., Watch], make_agent: MakeAgent) -> None:
    agent = make_agent(US)
    await told(watch(agent), lost)
    assert "sample" not in agent.asked


async def test_what_should_not_wait_is_said_at_once(watch: Callable[..., Watch], make_agent: MakeAgent) -> None:
    agent, said = make_agent(), asyncio.Event()
    agent.sample["connect_ms"] = 20.0
    one = watch(agent, said.set)
    await told(one, reached)
    assert not said.is_set()
    agent.sample["connect_ms"] = 520.0
    async with asyncio.timeout(20):
        await said.wait()
    await told(one, lambda sample: sample.connect_ms == 520.0)
    said.clear()
    agent.stop()
    async with asyncio.timeout(20):
        await said.wait()
    await told(one, lost)


async def test_close_hangs_up_and_leaves_no_task(watch: Callable[..., Watch], make_agent: MakeAgent) -> None:
    before, agent = asyncio.all_tasks(), make_agent()
    one = watch(agent)
    await told(one, reached)
    assert not one.ended
    await one.close()
    assert one.ended
    assert asyncio.all_tasks() == before
    async with asyncio.timeout(20):
        while agent.peers:
            await asyncio.sleep(0.01)

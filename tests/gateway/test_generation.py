"""Workers of one plan, with stand-ins for the workers: kept alive, retired together."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway import generation as module
from gateway.child import Child, ChildError
from gateway.generation import Generation
from gateway.plan import Plan
from health.process import Backoff
from tests.gateway.stand_in_worker import install

Make = Callable[..., Generation]


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    install(tmp_path, monkeypatch)
    made: list[Generation] = []

    def one(workers: int = 2, drain: float = 30.0, backoff: Backoff | None = None, **worker: object) -> Generation:
        plan = Plan([], "127.0.0.1:1", workers, drain, "info", [], worker)
        generation = Generation(
            plan,
            {},
            backoff=backoff or Backoff(first=0.01),
            alone=lambda: not any(child.listening for child in generation.children),
            on_end=ended.append,
            failures=lambda: [("c0000201", 1.0, 0.0)],
            on_guess=lambda teller, word: guesses.append((teller, word)),
        )
        made.append(generation)
        return generation

    ended: list[Child] = []
    guesses: list[tuple[Child, object]] = []
    one.guesses = guesses  # type: ignore[attr-defined]
    one.ended = ended  # type: ignore[attr-defined]
    yield one
    for generation in made:
        generation.retire(signal.SIGKILL)
        await generation.ended()


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_one_that_dies_is_replaced_and_leaves_its_last_word(make: Make) -> None:
    generation = make(2)
    await generation.serve()
    await generation.until_ready()
    before = {child.pid for child in generation.children}
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    await until(lambda: len(generation.children) == 2 and victim not in {c.pid for c in generation.children})
    await generation.until_ready()
    assert generation.restarts == 1
    assert [child.pid for child in make.ended] == [victim]  # type: ignore[attr-defined]
    assert len(before & {child.pid for child in generation.children}) == 1
    (new,) = [child for child in generation.children if child.pid not in before]
    assert new._state["alone"] is False


async def test_one_that_cannot_live_is_tried_more_and_more_rarely(make: Make) -> None:
    generation = make(1, backoff=Backoff(first=0.05, longest=0.4), exit=1)
    began = time.monotonic()
    await generation.serve()
    await until(lambda: generation.restarts == 4)
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2
    generation.retire(signal.SIGTERM)
    await generation.ended()
    assert generation.gone


async def test_while_coming_up_nobody_is_restarted(make: Make) -> None:
    generation = make(2, exit=3)
    await generation.start()
    with pytest.raises(ChildError):
        await generation.until_ready()
    await until(lambda: generation.gone)
    assert generation.restarts == 0
    assert len(make.ended) == 2  # type: ignore[attr-defined]


async def test_who_ended_before_it_serves_is_started_then(make: Make) -> None:
    generation = make(2)
    await generation.start()
    await generation.until_ready()
    os.kill(min(child.pid for child in generation.children), signal.SIGKILL)
    await until(lambda: len(generation.children) == 1)
    await generation.serve()
    await generation.until_ready()
    assert len(generation.children) == 2


async def test_retired_ones_end_and_are_not_restarted(make: Make) -> None:
    generation = make(2)
    await generation.serve()
    await generation.until_ready()
    generation.retire(signal.SIGTERM)
    async with asyncio.timeout(30):
        await generation.ended()
    assert not generation.children
    assert [child.counters for child in make.ended] == [{"totals": {(): [1000, 0]}}] * 2  # type: ignore[attr-defined]


async def test_one_that_does_not_end_is_killed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KILL_MARGIN_S", 0.2)
    generation = make(1, drain=0.1, deaf=True)
    await generation.serve()
    await generation.until_ready()
    began = time.monotonic()
    generation.retire(signal.SIGTERM)
    async with asyncio.timeout(30):
        await generation.ended()
    assert time.monotonic() - began > 0.25


async def test_retiring_ends_the_wait_for_a_restart(make: Make) -> None:
    generation = make(1, backoff=Backoff(first=60), exit=1)
    await generation.serve()
    await until(lambda: generation.restarts == 1)
    generation.retire(signal.SIGTERM)
    async with asyncio.timeout(20):
        await generation.ended()


async def test_workers_are_told_of_failures_and_tell_of_guesses(make: Make) -> None:
    generation = make(1, guess=["c0000202", 1])
    await generation.serve()
    await generation.until_ready()
    (child,) = generation.children
    assert child._state["failures"] == [["c0000201", 1.0, 0.0]]
    assert make.guesses == [(child, ["c0000202", 1])]  # type: ignore[attr-defined]

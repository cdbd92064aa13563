"""Signals, ticks and restarts."""

import asyncio
import os
import signal

import pytest

from health.process import Backoff, stop_signals, ticks


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sets_the_event_and_the_old_handler_returns(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        async with asyncio.timeout(20):
            await stop.wait()
    assert signal.getsignal(number) in (before, signal.default_int_handler, signal.SIG_DFL)


async def test_ticks_keep_their_rate_and_leave_out_what_was_missed() -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    seen: list[float] = []
    started = loop.time()
    async for _ in ticks(0.1, stop, first=0.05):
        seen.append(loop.time() - started)
        if len(seen) == 2:
            await asyncio.sleep(0.35)
        if len(seen) == 5:
            stop.set()
    assert len(seen) == 5
    assert seen[0] >= 0.05
    assert seen[1] >= 0.15
    # Late by 0.35 s: the next one at once, and no burst after it.
    assert seen[2] >= 0.5
    assert seen[3] - seen[2] >= 0.09
    assert seen[4] - seen[3] >= 0.09


async def test_stop_ends_a_wait_at_once() -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.call_later(0.05, stop.set)
    started = loop.time()
    assert [tick async for tick in ticks(60, stop)] == [None]
    assert [tick async for tick in ticks(60, stop)] == []
    assert loop.time() - started < 5


@pytest.mark.parametrize(
    ("delay", "ran", "expected"), [(0, 0, 0.1), (0.1, 1, 0.2), (51.2, 1, 60), (60, 1, 60), (60, 10, 0.1)]
)
def test_backoff(delay: float, ran: float, expected: float) -> None:
    assert Backoff().next(delay, ran) == expected

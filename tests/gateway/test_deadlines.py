"""Many deadlines, one timer. The loop's time is the test's, so that nothing depends on how busy the machine is."""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

import pytest

from gateway.deadlines import Deadlines

LENGTH = 0.1


class Clock(asyncio.AbstractEventLoop):
    """Of a loop what Deadlines uses: its time, which passes by `run`, and timers. `said` are what callbacks raised."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wakes = 0
        self.said: list[BaseException] = []
        self._timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.now + delay, callback, args, self, context)
        heapq.heappush(self._timers, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """What a handle tells its loop; `run` looks for itself."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.said.append(context["exception"])

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        while self._timers and self._timers[0].when() <= until:
            handle = heapq.heappop(self._timers)
            self.now = handle.when()
            if not handle.cancelled():
                self.wakes += 1
                handle._run()
        self.now = until


class Entry:
    """Notes when it expired, and does what it is told to then."""

    def __init__(self, clock: Clock, then: Callable[[], None] = lambda: None) -> None:
        self.began = clock.now
        self.after = 0.0
        self.times = 0
        self._clock = clock
        self._then = then

    def expired(self) -> None:
        self.after = self._clock.now - self.began
        self.times += 1
        self._then()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadlines(clock: Clock) -> Deadlines:
    return Deadlines(clock, LENGTH)


def test_each_expires_once_and_in_time(deadlines: Deadlines, clock: Clock) -> None:
    entries = []
    for _ in range(5):
        entries.append(Entry(clock))
        deadlines.add(entries[-1])
        clock.run(LENGTH / 4)
    clock.run(LENGTH * 1.5)
    assert [entry.times for entry in entries] == [1] * 5
    late = [entry.after - LENGTH for entry in entries]
    assert all(-1e-9 < seconds < LENGTH / 10 + 1e-9 for seconds in late), late
    assert len(deadlines) == 0


def test_who_is_done_does_not_expire(deadlines: Deadlines, clock: Clock) -> None:
    done, late = Entry(clock), Entry(clock)
    deadlines.add(done)
    deadlines.add(late)
    deadlines.discard(done)
    deadlines.discard(done)
    assert len(deadlines) == 1
    clock.run(LENGTH * 1.5)
    assert (done.times, late.times) == (0, 1)


def test_begun_again_it_has_the_whole_time_again(deadlines: Deadlines, clock: Clock) -> None:
    entry, other = Entry(clock), Entry(clock)
    deadlines.add(entry)
    deadlines.add(other)
    clock.run(LENGTH / 2)
    deadlines.discard(entry)
    deadlines.add(entry)
    clock.run(LENGTH * 2)
    assert entry.after == pytest.approx(LENGTH * 1.5, abs=LENGTH / 10)
    assert other.after == pytest.approx(LENGTH, abs=LENGTH / 10)


def test_an_entry_may_add_and_discard_others_when_it_expires(deadlines: Deadlines, clock: Clock) -> None:
    victim, new = Entry(clock), Entry(clock)
    old = Entry(clock, lambda: (deadlines.discard(victim), deadlines.add(new))[0])
    deadlines.add(old)
    deadlines.add(victim)
    clock.run(LENGTH * 3)
    assert (old.times, victim.times, new.times) == (1, 0, 1)


def test_one_that_fails_takes_no_deadline_from_the_others(deadlines: Deadlines, clock: Clock) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    broken, others = Entry(clock, fail), [Entry(clock), Entry(clock)]
    deadlines.add(broken)
    deadlines.add(others[0])
    clock.run(LENGTH * 2)
    deadlines.add(others[1])
    clock.run(LENGTH * 2)
    assert [entry.times for entry in (broken, *others)] == [1, 1, 1]
    assert isinstance(clock.said[0], ZeroDivisionError)


def test_nothing_expires_after_the_end(deadlines: Deadlines, clock: Clock) -> None:
    entry = Entry(clock)
    deadlines.add(entry)
    deadlines.close()
    clock.run(LENGTH * 1.5)
    assert entry.times == 0


def test_one_timer_for_all(deadlines: Deadlines, clock: Clock) -> None:
    """Ten thousand entries that come and go wake the loop a handful of times."""
    for _ in range(100):
        entries = [Entry(clock) for _ in range(100)]
        for entry in entries:
            deadlines.add(entry)
        clock.run(0.001)
        for entry in entries:
            deadlines.discard(entry)
    clock.run(LENGTH * 2)
    assert clock.wakes < 20

"""Many deadlines, one timer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.deadlines import Deadlines

LENGTH = 0.1


class Entry:
    """Notes when it expired, and does what it is told to then."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.began = time.monotonic()
        self.after = 0.0
        self.times = 0
        self._then = then

    def expired(self) -> None:
        self.after = time.monotonic() - self.began
        self.times += 1
        self._then()


@pytest.fixture
async def deadlines() -> AsyncIterator[Deadlines]:
    made = Deadlines(asyncio.get_running_loop(), LENGTH)
    yield made
    made.close()


async def test_each_expires_once_and_in_time(deadlines: Deadlines) -> None:
    entries = []
    for _ in range(5):
        entries.append(Entry())
        deadlines.add(entries[-1])
        await asyncio.sleep(LENGTH / 4)
    await asyncio.sleep(LENGTH * 1.5)
    assert [entry.times for entry in entries] == [1] * 5
    assert all(LENGTH <= entry.after < LENGTH * 2 for entry in entries), [entry.after for entry in entries]
    assert len(deadlines) == 0


async def test_who_is_done_does_not_expire(deadlines: Deadlines) -> None:
    done, late = Entry(), Entry()
    deadlines.add(done)
    deadlines.add(late)
    deadlines.discard(done)
    deadlines.discard(done)
    assert len(deadlines) == 1
    await asyncio.sleep(LENGTH * 1.5)
    assert (done.times, late.times) == (0, 1)


async def test_begun_again_it_has_the_whole_time_again(deadlines: Deadlines) -> None:
    entry, other = Entry(), Entry()
    deadlines.add(entry)
    deadlines.add(other)
    await asyncio.sleep(LENGTH / 2)
    deadlines.discard(entry)
    deadlines.add(entry)
    await asyncio.sleep(LENGTH * 2)
    assert entry.after >= LENGTH * 1.5
    assert other.after < LENGTH * 1.5 + 0.05


async def test_an_entry_may_add_and_discard_others_when_it_expires(deadlines: Deadlines) -> None:
    old, victim, new = Entry(lambda: (deadlines.discard(victim), deadlines.add(new))[0]), Entry(), Entry()
    deadlines.add(old)
    deadlines.add(victim)
    await asyncio.sleep(LENGTH * 3)
    assert (old.times, victim.times, new.times) == (1, 0, 1)


async def test_one_that_fails_takes_no_deadline_from_the_others(deadlines: Deadlines) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    loop, said = asyncio.get_running_loop(), list[BaseException]()
    loop.set_exception_handler(lambda _, context: said.append(context["exception"]))
    broken, others = Entry(fail), [Entry(), Entry()]
    deadlines.add(broken)
    deadlines.add(others[0])
    await asyncio.sleep(LENGTH * 2)
    deadlines.add(others[1])
    await asyncio.sleep(LENGTH * 2)
    assert [entry.times for entry in (broken, *others)] == [1, 1, 1]
    assert isinstance(said[0], ZeroDivisionError)


async def test_nothing_expires_after_the_end(deadlines: Deadlines) -> None:
    entry = Entry()
    deadlines.add(entry)
    deadlines.close()
    await asyncio.sleep(LENGTH * 1.5)
    assert entry.times == 0


async def test_one_timer_for_all(deadlines: Deadlines) -> None:
    """Ten thousand entries that come and go wake the loop a handful of times."""
    wakes = 0
    look = deadlines._look

    def counted() -> None:
        nonlocal wakes
        wakes += 1
        look()

    deadlines._look = counted  # type: ignore[method-assign]
    for _ in range(100):
        entries = [Entry() for _ in range(100)]
        for entry in entries:
            deadlines.add(entry)
        await asyncio.sleep(0.001)
        for entry in entries:
            deadlines.discard(entry)
    await asyncio.sleep(LENGTH * 2)
    assert wakes < 20

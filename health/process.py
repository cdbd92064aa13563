"""What a long-running process of ours does at its edges: it ends on a signal or with its parent, ticks, restarts."""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before a restart: `first`, doubling up to `longest`, `first` again after `settled` seconds of running."""

    first: float = 0.1
    longest: float = 60.0
    settled: float = 10.0

    def next(self, delay: float, ran: float) -> float:
        """The delay after `delay`, for a program that ran for `ran` seconds; `delay` is 0 before the first."""
        return self.first if not delay or ran >= self.settled else min(delay * 2, self.longest)


def tie_to_parent(parent: int) -> None:
    """In a new child, before exec: die with SIGKILL when the parent does. `parent` is the process id that forked."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it died between fork and prctl
        os._exit(1)


def follow_parent() -> None:
    """From now on this process gets SIGTERM when the program that started it ends."""
    parent = os.getppid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set; afterwards the signals do again what they did before."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def ticks(interval: float, stop: asyncio.Event, *, first: float = 0.0) -> AsyncIterator[None]:
    """One tick every `interval` seconds, the first after `first` seconds, until `stop` is set.

    The rate is kept however long the work of a tick takes; ticks that were missed are left out, not made up for.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + first
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await stop.wait()
        if stop.is_set():
            return
        yield
        due = max(due + interval, loop.time())

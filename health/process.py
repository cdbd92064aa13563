"""What a long-running process of ours does at its edges: it ends on a signal, and it ticks."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator


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

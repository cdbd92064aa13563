"""One edge-triggered epoll for every client and target socket of a worker, itself a single reader of the event loop.

A descriptor is registered once with every event and never modified. Whoever takes an event reads or writes until the
kernel says "would block". A descriptor number that is used again within a batch gets nothing of that batch.
"""

import asyncio
import select
from collections.abc import Callable

import structlog

EVENTS = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
BROKEN = select.EPOLLHUP | select.EPOLLERR
# The peer's end of file is in the kernel's queue: a short read has seen everything before it.
ENDED = select.EPOLLRDHUP | select.EPOLLHUP
# Urgent data: a read stops short at its mark though more is there (tcp(7)).
URGENT = select.EPOLLPRI

log = structlog.get_logger()

Handler = Callable[[int], None]

_BATCH = 512


class Poller:
    """Hands each descriptor's events to its handler."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._fresh: set[int] = set()
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, handler: Handler) -> None:
        """Send the events of `fd` to `handler` from now on.

        The first time, events that are already pending are delivered. Later, those that an earlier handler saw are not
        repeated: the new one must try once by itself.
        """
        known = fd in self._handlers
        self._handlers[fd] = handler
        if not known:
            self._epoll.register(fd, EVENTS)
            self._fresh.add(fd)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`, which is closed next: that takes it out of the epoll by itself (epoll(7), Q6)."""
        self._handlers.pop(fd, None)

    def unregister(self, fd: int) -> None:
        """Stop watching `fd`, which stays open. Unknown descriptors are ignored."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _ready(self) -> None:
        handlers, fresh = self._handlers, self._fresh
        fresh.clear()
        for fd, events in self._epoll.poll(0, _BATCH):
            handler = handlers.get(fd)
            if handler is None or fd in fresh:  # meant for one that had the number before
                continue
            try:
                handler(events)
            except Exception:  # the events of the others in this batch come only once
                log.exception("event handler failed")

"""One edge-triggered epoll for every client and target socket of a worker, itself a single reader of the event loop.

A descriptor is registered once with every event and never modified. Whoever takes an event reads or writes until the
kernel says "would block"; a spurious event must do no harm, since a descriptor number may have been used again within
one batch.
"""

import asyncio
import select
from collections.abc import Callable

EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
BROKEN = select.EPOLLHUP | select.EPOLLERR

Handler = Callable[[int], None]


class Poller:
    """Hands each descriptor's events to its handler."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        loop.add_reader(self._epoll.fileno(), self._ready)

    def register(self, fd: int, handler: Handler) -> None:
        """Watch `fd`; events that are already pending are delivered."""
        self._handlers[fd] = handler
        self._epoll.register(fd, EVENTS)

    def hand_over(self, fd: int, handler: Handler) -> None:
        """Replace the handler of `fd`. Events seen before are not repeated: the new owner must try once by itself."""
        self._handlers[fd] = handler

    def unregister(self, fd: int) -> None:
        """Stop watching `fd`; call before closing it. Unknown descriptors are ignored."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _ready(self) -> None:
        handlers = self._handlers
        for fd, events in self._epoll.poll(0, 512):
            handler = handlers.get(fd)
            if handler is not None:
                handler(events)

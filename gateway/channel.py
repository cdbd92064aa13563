"""A socket whose reads, writes and connect can be awaited: what handshakes and plain HTTP are spoken over.

Tries the system call first and waits only when it would block. At most one task reads and one writes at a time.
"""

import asyncio
import errno
import socket
import struct
from types import TracebackType
from typing import Self

from gateway.poller import READ, WRITE, Poller

_LINGER_ABORT = struct.pack("ii", 1, 0)
_CONNECTING = (errno.EINPROGRESS, errno.EALREADY)


class AbortedError(ConnectionError):
    """The channel was aborted from our side (its node went away, or the gateway stops)."""


class Channel:
    """One non-blocking stream socket. Takes its events from the poller as soon as it has to wait."""

    __slots__ = ("_closed", "_poller", "_read_waiter", "_watching", "_write_waiter", "sock")

    def __init__(self, poller: Poller, sock: socket.SocketType) -> None:
        self.sock = sock
        self._poller = poller
        self._read_waiter: asyncio.Future[None] | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._watching = False
        self._closed = False

    async def connect(self, address: tuple[str, int]) -> tuple[int, bool]:
        """Connect; returns 0 or the errno, and whether the kernel had sent anything before it failed.

        An error of the call itself (no route, no port left) says nothing of the target. Raises AbortedError.
        """
        code = self.sock.connect_ex(address)
        if code not in _CONNECTING:
            return code, False
        self._watch()
        while True:
            await self._wait_writable()
            code = self.sock.connect_ex(address)
            if code not in _CONNECTING:
                return (0 if code == errno.EISCONN else code), True

    async def read(self, limit: int = 65536) -> bytes:
        """Some bytes, or b"" at the end. Raises OSError (AbortedError included)."""
        while True:
            if self._closed:
                raise AbortedError
            try:
                return self.sock.recv(limit)
            except BlockingIOError:
                self._watch()
                self._read_waiter = self._poller.loop.create_future()
                try:
                    await self._read_waiter
                finally:
                    self._read_waiter = None

    async def write(self, data: bytes) -> None:
        """Write all of `data`. Raises OSError (AbortedError included)."""
        rest = memoryview(data)
        while rest:
            if self._closed:
                raise AbortedError
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                self._watch()
                await self._wait_writable()

    @property
    def closed(self) -> bool:
        """True once it was closed, aborted or handed over."""
        return self._closed

    @property
    def idle(self) -> bool:
        """True while the peer has neither closed nor sent anything unasked."""
        if self._closed:
            return False
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def hand_over(self) -> socket.SocketType:
        """Give the socket and its events away; the new owner must try both directions once by itself."""
        self._closed = True
        return self.sock

    def abort(self) -> None:
        """Close at once with a reset, and wake whoever waits."""
        if self._closed:
            return
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ABORT)
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Close in order. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._poller.forget(self.sock.fileno())
        self.sock.close()
        for waiter in (self._read_waiter, self._write_waiter):
            if waiter is not None and not waiter.done():
                waiter.set_exception(AbortedError())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._poller.watch(self.sock.fileno(), self._on_event)

    async def _wait_writable(self) -> None:
        self._write_waiter = self._poller.loop.create_future()
        try:
            await self._write_waiter
        finally:
            self._write_waiter = None

    def _on_event(self, events: int) -> None:
        reader, writer = self._read_waiter, self._write_waiter
        if reader is not None and events & READ and not reader.done():
            reader.set_result(None)
        if writer is not None and events & WRITE and not writer.done():
            writer.set_result(None)

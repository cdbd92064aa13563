"""Carries bytes between two connected sockets until both sides have ended.

Each direction pumps by itself: read until the kernel has no more, keep what the other side would not take and stop
reading until it does. An end of file is passed on once everything before it is written; a reset is passed on as a
reset. A direction that shows bulk (two full reads in a row) moves its bytes with splice(2), so that they never enter
this process.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from fcntl import F_SETPIPE_SZ, fcntl

from gateway.channel import Channel
from gateway.poller import BROKEN, READ, WRITE, Poller
from health.reasons import Reason

_READ_SIZE = 256 * 1024
_BULK_READ = 64 * 1024
_PIPE_SIZE = 1024 * 1024  # pipe(7): what an unprivileged user may ask for
_TURNS = 16  # reads in a row before the others get their turn
_RESET = struct.pack("ii", 1, 0)
_SPLICE_FLAGS = 0x1 | 0x2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK, splice(2)

Finished = Callable[["Relay"], None]


class PipePool:
    """Kernel pipes for splice, made on demand and used again. `limit` is the most that may exist at once."""

    def __init__(self, limit: int = 32) -> None:
        self._free: list[tuple[int, int]] = []
        self.limit = self._left = limit

    def take(self) -> tuple[int, int] | None:
        """A pipe, or None when the limit is reached (pipe-user-pages-soft of pipe(7) would shrink more of them)."""
        if self._free:
            return self._free.pop()
        if self._left == 0:
            return None
        try:
            ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        self._left -= 1
        with contextlib.suppress(OSError):
            fcntl(ends[0], F_SETPIPE_SZ, _PIPE_SIZE)
        return ends

    def give_back(self, pipe: tuple[int, int]) -> None:
        """Return an *empty* pipe."""
        self._free.append(pipe)

    def discard(self, pipe: tuple[int, int]) -> None:
        """Close a pipe that still holds bytes."""
        os.close(pipe[0])
        os.close(pipe[1])
        self._left += 1


class _Direction:
    """Bytes one way, from `source` to `sink`."""

    __slots__ = ("bulk", "count", "done", "eof", "held", "in_pipe", "pipe", "sink", "source")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.held: bytes | memoryview = b""
        self.pipe: tuple[int, int] | None = None
        self.in_pipe = 0
        self.bulk = 0
        self.eof = False
        self.done = False
        self.count = 0

    @property
    def blocked(self) -> bool:
        return bool(self.held) or self.in_pipe > 0


class _SinkGoneError(Exception):
    """The side that was written to is gone."""


class Relay:
    """One tunnel. `finished(relay)` is called once, after both sockets are closed."""

    __slots__ = ("_buffer", "_down", "_ended", "_finished", "_pipes", "_poller", "_up", "reason")

    def __init__(
        self,
        poller: Poller,
        client: Channel,
        target: Channel,
        pipes: PipePool,
        buffer: memoryview,
        finished: Finished,
    ) -> None:
        self._poller = poller
        self._pipes = pipes
        self._buffer = buffer
        self._finished = finished
        self._ended = False
        self.reason = Reason.OK
        self._up = _Direction(client.sock, target.sock)
        self._down = _Direction(target.sock, client.sock)
        client.hand_over(self._on_client)
        target.hand_over(self._on_target)

    def start(self, early: bytes = b"") -> None:
        """Begin, with bytes that the client sent along with its handshake."""
        self._up.held = early
        self._pump(self._up)
        if not self._ended:
            self._pump(self._down)

    @property
    def bytes_up(self) -> int:
        """Bytes passed from the client to the target."""
        return self._up.count

    @property
    def bytes_down(self) -> int:
        """Bytes passed from the target to the client."""
        return self._down.count

    def abort(self, reason: Reason = Reason.NODE_LOST) -> None:
        """Reset both sides at once. Idempotent."""
        self._end(reason, reset=True)

    def _on_client(self, events: int) -> None:
        self._on_event(events, self._up, self._down)

    def _on_target(self, events: int) -> None:
        self._on_event(events, self._down, self._up)

    def _on_event(self, events: int, reading: _Direction, writing: _Direction) -> None:
        if events & READ and not reading.done:
            self._pump(reading)
        if self._ended:
            return
        if events & WRITE and writing.blocked:
            self._pump(writing)
        if events & BROKEN and not self._ended and reading.done:
            self._check_broken(reading)

    def _check_broken(self, reading: _Direction) -> None:
        # Its end of file was read before; a reset after that shows up nowhere but here.
        if reading.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._end(self._reset_by(reading), reset=True)

    def _pump(self, way: _Direction) -> None:
        try:
            again = self._move(way)
        except _SinkGoneError:
            self._end(self._reset_by(self._up if way is self._down else self._down), reset=True)
            return
        except OSError:
            self._end(self._reset_by(way), reset=True)
            return
        if way.done and self._up.done and self._down.done:
            self._end(Reason.OK, reset=False)
        elif again:
            self._poller.loop.call_soon(self._again, way)

    def _again(self, way: _Direction) -> None:
        if not self._ended:
            self._pump(way)

    def _move(self, way: _Direction) -> bool:
        """Move what can be moved; True if it stopped only to let others have their turn."""
        for _ in range(_TURNS):
            if not self._flush(way):
                return False
            if way.eof:
                self._drop_pipe(way)
                way.done = True
                self._shut(way.sink)
                return False
            try:
                if way.bulk >= 2 and self._splice_in(way):
                    continue
                size = way.source.recv_into(self._buffer)
            except BlockingIOError:
                self._drop_pipe(way)
                return False
            if size == 0:
                way.eof = True
                continue
            way.bulk = way.bulk + 1 if size >= _BULK_READ else 0
            self._write(way, size)
        return True

    def _write(self, way: _Direction, size: int) -> None:
        try:
            sent = way.sink.send(self._buffer[:size])
        except BlockingIOError:
            sent = 0
        except OSError:
            raise _SinkGoneError from None
        way.count += sent
        if sent < size:
            way.held = bytes(self._buffer[sent:size])

    def _flush(self, way: _Direction) -> bool:
        """Write what is held back; True when nothing is left."""
        try:
            while way.held:
                sent = way.sink.send(way.held)
                way.count += sent
                way.held = memoryview(way.held)[sent:] if sent < len(way.held) else b""
            while way.in_pipe and way.pipe is not None:
                moved = os.splice(way.pipe[0], way.sink.fileno(), way.in_pipe, flags=_SPLICE_FLAGS)
                way.in_pipe -= moved
                way.count += moved
        except BlockingIOError:
            return False
        except OSError:
            raise _SinkGoneError from None
        return True

    def _shut(self, sink: socket.socket) -> None:
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            raise _SinkGoneError from None

    def _splice_in(self, way: _Direction) -> bool:
        """Fill the pipe from the source; False if there is no pipe to be had. Raises BlockingIOError when empty."""
        if way.pipe is None:
            way.pipe = self._pipes.take()
            if way.pipe is None:
                way.bulk = 0
                return False
        moved = os.splice(way.source.fileno(), way.pipe[1], _PIPE_SIZE, flags=_SPLICE_FLAGS)
        if moved == 0:
            way.eof = True
        way.in_pipe += moved
        return True

    def _drop_pipe(self, way: _Direction) -> None:
        if way.pipe is not None:
            pipe, way.pipe = way.pipe, None
            if way.in_pipe:
                self._pipes.discard(pipe)
            else:
                self._pipes.give_back(pipe)

    def _reset_by(self, reading: _Direction) -> Reason:
        return Reason.CLIENT_RESET if reading is self._up else Reason.TARGET_RESET

    def _end(self, reason: Reason, *, reset: bool) -> None:
        if self._ended:
            return
        self._ended = True
        self.reason = reason
        for way in (self._up, self._down):
            self._drop_pipe(way)
            self._poller.unregister(way.source.fileno())
            if reset:
                with contextlib.suppress(OSError):
                    way.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            way.source.close()
        self._finished(self)

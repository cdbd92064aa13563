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
import time
from typing import Protocol

from gateway.pipes import PIPE_SIZE, PipePool
from gateway.poller import BROKEN, ENDED, READ, URGENT, WRITE, Poller
from health.reasons import Reason

READ_SIZE = 256 * 1024
_BULK_READ = 64 * 1024
_WORTH_A_TURN = 256 * 1024
_TRICKLE = 16 * 1024
_REST_S = 0.001
_TURNS = 16  # reads in a row before the others get their turn
_RESET = struct.pack("ii", 1, 0)
_SPLICE_FLAGS = 0x1 | 0x2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK, splice(2)


class Bucket(Protocol):
    """A rate: how many bytes may pass now, and when it is worth asking again (seconds)."""

    def take(self, wanted: int, now: float) -> int: ...
    def give_back(self, unused: int) -> None: ...
    def delay(self, now: float) -> float: ...


class Shared:
    """What all tunnels of a worker use: events, pipes, and one buffer that no byte stays in."""

    __slots__ = ("buffer", "loop", "pipes", "poller")

    def __init__(self, poller: Poller, pipes: int = 32) -> None:
        self.poller = poller
        self.loop = poller.loop
        self.pipes = PipePool(pipes)
        self.buffer = memoryview(bytearray(READ_SIZE))


class _SinkGoneError(Exception):
    """The side that was written to is gone."""


class Way:
    """Bytes one way, from `source` to `sink`. `count` is how many passed."""

    __slots__ = (
        "bucket",
        "bulk",
        "count",
        "done",
        "eof",
        "held",
        "in_pipe",
        "other",
        "pipe",
        "plain",
        "sink",
        "source",
        "tunnel",
        "waiting",
    )

    __deletable__ = ("other",)  # mypyc lets nothing else be deleted
    other: "Way"

    def __init__(self, tunnel: "Tunnel", source: socket.SocketType, sink: socket.SocketType) -> None:
        self.tunnel = tunnel
        self.source = source
        self.sink = sink
        self.held: bytes | memoryview = b""
        self.pipe: tuple[int, int] | None = None
        self.in_pipe = 0
        self.bulk = 0
        self.eof = False
        self.done = False
        self.count = 0
        self.bucket: Bucket | None = None
        self.waiting = False
        self.plain = True

    def on_event(self, events: int) -> None:
        """Events of `source`: it is what this way reads and what the other one writes."""
        tunnel = self.tunnel
        if tunnel.ended:
            return
        if events & READ and not self.done:
            if self.plain and not events & URGENT and not self.held:
                self._move_little(tunnel, events)
            else:
                self.pump()
            if tunnel.ended:
                return
        other = self.other
        if events & WRITE and (other.held or other.in_pipe):
            other.pump()
        elif events & BROKEN and self.done:
            tunnel.check_broken(self)

    def pump(self) -> None:
        """Move whatever can be moved."""
        if self.tunnel.ended or self.waiting:
            return
        try:
            again = self._move() if self.bucket is None else self._move_within_rate(self.bucket)
        except _SinkGoneError:
            self.tunnel.broken(self.other)
        except OSError:
            self.tunnel.broken(self)
        else:
            if again:
                self.tunnel.shared.loop.call_soon(self.pump)

    def _move_little(self, tunnel: "Tunnel", events: int) -> None:
        """One read and one write, which is all there is to most events."""
        buffer = tunnel.shared.buffer
        try:
            size = self.source.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError:
            tunnel.broken(self)
            return
        if size:
            if not self.count and self is tunnel.down:
                tunnel.first_byte()
            try:
                sent = self.sink.send(buffer[:size])
            except BlockingIOError:
                sent = 0
            except OSError:
                tunnel.broken(self.other)
                return
            self.count += sent
            if sent < size:
                self.held = bytes(buffer[sent:size])
            if size >= _BULK_READ:
                self.plain = False
                self.bulk = 1
                self.pump()
                return
            if not events & ENDED:
                return
            if events & BROKEN:  # the end may be a reset, which only the next read tells
                self.pump()
                return
        self.eof = True
        if not self.held:
            try:
                self._finish()
            except _SinkGoneError:
                tunnel.broken(self.other)

    def _move(self) -> bool:
        """Until the kernel has no more; True if it stopped only to let others have their turn."""
        for _ in range(_TURNS):
            if not self._flush():
                return False
            if self.eof:
                self._finish()
                return False
            try:
                if self.bulk >= 2 and self._splice_in():
                    if self.in_pipe < _WORTH_A_TURN and not self.eof:
                        self._rest()
                        return False
                    continue
                buffer = self.tunnel.shared.buffer
                size = self.source.recv_into(buffer)
            except BlockingIOError:
                self.drop_pipe()
                self.plain = self.bulk < 2
                return False
            if size == 0:
                self.eof = True
                continue
            self.bulk = self.bulk + 1 if size >= _BULK_READ else 0
            self._write(buffer[:size], size)
        return True

    def _move_within_rate(self, bucket: Bucket) -> bool:
        """As much as the bucket lets through, then wait for it to fill: without events and without spinning."""
        shared = self.tunnel.shared
        for _ in range(_TURNS):
            if not self._flush():
                return False
            if self.eof:
                self._finish()
                return False
            now = time.monotonic()
            allowed = bucket.take(_BULK_READ, now)
            if not allowed:
                self.waiting = True
                shared.loop.call_later(bucket.delay(now), self._go_on)
                return False
            try:
                size = self.source.recv_into(shared.buffer, allowed)
            except BlockingIOError:
                bucket.give_back(allowed)
                return False
            bucket.give_back(allowed - size)
            if size == 0:
                self.eof = True
                continue
            self._write(shared.buffer[:size], size)
        return True

    def _rest(self) -> None:
        """Bulk in small pieces: for a millisecond let more come together, which is less work per byte."""
        if self.in_pipe < _TRICKLE:
            self.bulk = 0
        if self._flush():
            self.waiting = True
            self.tunnel.shared.loop.call_later(_REST_S, self._go_on)

    def _go_on(self) -> None:
        self.waiting = False
        self.pump()

    def _write(self, data: memoryview, size: int) -> None:
        if not self.count and self is self.tunnel.down:
            self.tunnel.first_byte()
        try:
            sent = self.sink.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise _SinkGoneError from None
        self.count += sent
        if sent < size:
            self.held = bytes(data[sent:])

    def _flush(self) -> bool:
        """Write what is held back; True when nothing is left."""
        try:
            while self.held:
                sent = self.sink.send(self.held)
                self.count += sent
                self.held = memoryview(self.held)[sent:] if sent < len(self.held) else b""
            while self.in_pipe and self.pipe is not None:
                moved = os.splice(self.pipe[0], self.sink.fileno(), self.in_pipe, flags=_SPLICE_FLAGS)
                self.in_pipe -= moved
                self.count += moved
        except BlockingIOError:
            return False
        except OSError:
            raise _SinkGoneError from None
        return True

    def _finish(self) -> None:
        """Everything before the end of file is written: pass it on."""
        self.eof = self.done = True
        self.drop_pipe()
        if self.other.done:
            self.tunnel.end(Reason.OK)
            return
        if not self.count and self is self.tunnel.down:
            self.tunnel.cut_off()
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            raise _SinkGoneError from None

    def _splice_in(self) -> bool:
        """Fill the pipe from the source; False where a read must be tried instead."""
        if self.pipe is None:
            self.pipe = self.tunnel.shared.pipes.take()
            if self.pipe is None:
                self.bulk = 0
                return False
        try:
            moved = os.splice(self.source.fileno(), self.pipe[1], PIPE_SIZE, flags=_SPLICE_FLAGS)
        except BlockingIOError:  # empty, or at the mark of urgent data: only a read goes past that
            return False
        if moved == 0:
            self.eof = True
        self.in_pipe += moved
        return True

    def drop_pipe(self) -> None:
        """Give the pipe back, or away with it while it still holds bytes."""
        if self.pipe is not None:
            pipe, self.pipe = self.pipe, None
            if self.in_pipe:
                self.tunnel.shared.pipes.discard(pipe)
            else:
                self.tunnel.shared.pipes.give_back(pipe)


class TunnelOwner(Protocol):
    """Who hears of a tunnel's life."""

    def tunnel_ended(self, reason: Reason, up: int, down: int) -> None: ...
    def first_byte(self) -> None: ...
    def cut_off(self) -> None: ...


class Tunnel:
    """Two sockets and the bytes between them. `owner.tunnel_ended` is called once, after both are closed."""

    __slots__ = ("_owner", "down", "ended", "seen", "seen_at", "shared", "up")
    __deletable__ = ("_owner", "down", "up")

    def __init__(
        self, shared: Shared, client: socket.SocketType, target: socket.SocketType, owner: TunnelOwner
    ) -> None:
        self.shared = shared
        self._owner = owner
        self.ended = False
        self.seen = 0  # bytes passed, and when that was, at the last sweep
        self.seen_at = 0.0
        self.up = Way(self, client, target)
        self.down = Way(self, target, client)
        self.up.other, self.down.other = self.down, self.up

    def start(self, early: bytes = b"", *, client_events: int = READ, target_events: int = READ) -> None:
        """Begin. `early` is what the client sent along with its handshake; the events are those that the sockets'
        earlier handlers saw and did not read for."""
        up, down = self.up, self.down
        watch = self.shared.poller.watch
        watch(up.source.fileno(), up.on_event)
        watch(down.source.fileno(), down.on_event)
        if up.bucket is not None or down.bucket is not None:
            up.plain = down.plain = False
        up.held = early
        if early or client_events & READ:
            up.pump()
        if target_events & READ:
            down.pump()

    @property
    def passed(self) -> int:
        """Bytes that passed so far, both ways together."""
        return 0 if self.ended else self.up.count + self.down.count

    def abort(self, reason: Reason = Reason.NODE_LOST) -> None:
        """Reset both sides at once. Idempotent."""
        self.end(reason, reset=True)

    def check_broken(self, way: Way) -> None:
        """`way` has read its end of file before; a reset after that shows up nowhere but here."""
        if not self.ended and way.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.broken(way)

    def broken(self, way: Way) -> None:
        """The socket that `way` reads from was reset: so is the other."""
        if way is self.down and not way.count and not self.up.done:
            self.cut_off()
        self.end(Reason.CLIENT_RESET if way is self.up else Reason.TARGET_RESET, reset=True)

    def first_byte(self) -> None:
        """Tell the owner of the target's first byte."""
        self._owner.first_byte()

    def cut_off(self) -> None:
        """Tell the owner that the target ended it before it had sent anything, and before the client did."""
        self._owner.cut_off()

    def end(self, reason: Reason, *, reset: bool = False) -> None:
        """Close both sockets. Idempotent."""
        if self.ended:
            return
        self.ended = True
        up, down = self.up, self.down
        for way in (up, down):
            if way.pipe is not None:
                way.drop_pipe()
            self.shared.poller.forget(way.source.fileno())
            if reset:
                with contextlib.suppress(OSError):
                    way.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            way.source.close()
        owner = self._owner
        # They would keep each other alive until the garbage collector comes by.
        del up.other, self.up, self.down, self._owner
        owner.tunnel_ended(reason, up.count, down.count)

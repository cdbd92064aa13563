"""Carries the datagrams of one SOCKS5 association (RFC 1928 section 7) between its client and the chosen node.

Judges every datagram: it must come from the client's address and, after the first one, from its port; where it may go,
and what may come back, the node's side says (`udp_far`). What does not fit, or finds the next socket full, is dropped
and counted; nothing is queued here. How an association begins, and what becomes of its TCP connection, is
`udp_session`'s.
"""

import errno
import socket
from collections.abc import Callable
from functools import partial

from gateway.bucket import Bucket
from gateway.destinations import Peer, Route
from gateway.dial import TARGET_ERRORS
from gateway.poller import READ, Poller
from gateway.udp_far import Far
from gateway.wire import socks_udp
from gateway.wire.base import WireError
from health.reasons import Reason

NEARLY_IDLE = 0.5  # the share of the idle time after which the end of the far side is nobody's fault
TURNS = 32  # datagrams in a row before the others get their turn


class Association:
    """One client's datagrams.

    Args:
        near: the socket the client sends to: bound, not connected.
        client: the client's address, and its port where that is known, else 0.
        far: the node's side; the caller puts the association among the tunnels of its link.
        buffer: scratch space of at least 66 KB, shared with others between events.
        limits: what the client's bytes and the targets' must pass (None: no limit). A datagram that does not fit into
            what is left is dropped, as on a full line; one larger than the burst they allow never fits.
        idle: seconds without a datagram passed on, after which it ends.
        ended: called when it ends by itself, with `reason` set.
        dropped: told the direction (up, down) and the reason of every datagram that is not passed on.
    """

    def __init__(
        self,
        poller: Poller,
        near: socket.SocketType,
        client: Peer,
        far: Far,
        buffer: memoryview,
        *,
        limits: tuple[Bucket | None, Bucket | None] = (None, None),
        idle: float,
        ended: Callable[[], None],
        dropped: Callable[[str, Reason], None],
    ) -> None:
        self.reason = Reason.OK
        self.bytes_up = self.bytes_down = 0
        self._loop = poller.loop
        self._poller, self._near, self._client, self._far = poller, near, client, far
        self._buffer = buffer
        self._idle, self._ended, self._dropped = idle, ended, dropped
        self._limit_up, self._limit_down = limits
        self._connected = self._closed = False
        self._now = self._last = self._loop.time()
        self._timer = self._loop.call_later(idle, self._check_idle)
        self._watch(near, self._receive_up)
        for sock in far.sockets:
            self._watch(sock, partial(self._receive_down, sock))
        far.begin(self._send_held, self._lost)

    @property
    def passed(self) -> int:
        """Bytes both ways together."""
        return self.bytes_up + self.bytes_down

    def abort(self) -> None:
        """The node went away. Idempotent."""
        self.end(Reason.NODE_LOST)

    def _lost(self) -> None:
        """The far side has ended. An upstream may be the first to find that nothing passes any more."""
        idle = self._loop.time() - self._last > self._idle * NEARLY_IDLE
        self.end(Reason.IDLE_TIMEOUT if idle else Reason.NODE_LOST)

    def close(self) -> None:
        """Stop, and close every socket. Idempotent; `ended` is not called."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        for sock in (self._near, *self._far.sockets):
            self._poller.unregister(sock.fileno())
        self._near.close()
        self._far.close()

    def end(self, reason: Reason) -> None:
        """End by itself, and say so. Idempotent."""
        if not self._closed:
            self.reason = reason
            self.close()
            self._ended()

    def _check_idle(self) -> None:
        left = self._last + self._idle - self._loop.time()
        if left <= 0:
            self.end(Reason.IDLE_TIMEOUT)
        else:
            self._timer = self._loop.call_later(left, self._check_idle)

    def _watch(self, sock: socket.SocketType, receive: Callable[[], None]) -> None:
        def on_event(events: int) -> None:
            if events & READ:
                self._drain(receive)

        self._poller.watch(sock.fileno(), on_event)

    def _drain(self, receive: Callable[[], None]) -> None:
        if self._closed:
            return
        self._now = self._loop.time()
        for _ in range(TURNS):
            try:
                receive()
            except BlockingIOError:
                return
            except OSError:
                pass  # an ICMP error about something sent before: to read it is to be rid of it
        self._loop.call_soon(self._drain, receive)

    def _receive_up(self) -> None:
        size, source = self._near.recvfrom_into(self._buffer)
        try:
            self._pass_up(self._buffer[:size], source[:2])
        except WireError as error:
            self._dropped("up", error.reason)

    def _pass_up(self, datagram: memoryview, source: Peer) -> None:
        if source != self._client and (self._client[1] or source[0] != self._client[0]):
            raise WireError(Reason.CLIENT_FORBIDDEN, "not the client's address or port")
        start = socks_udp.data_start(datagram)
        if not self._connected:
            self._claim(source)
        data = datagram[start:]
        route = self._far.find(bytes(datagram[socks_udp.DESTINATION : start]), data, self._now)
        if route is not None:
            self._send_up(route, data)

    def _claim(self, source: Peer) -> None:
        """From now on the kernel, too, keeps others out."""
        try:
            self._near.connect(source)
        except OSError as error:
            raise WireError(_reason(error), "the client cannot be answered") from None
        self._client, self._connected = source, True

    def _send_held(self, route: Route, held: list[bytes]) -> None:
        self._now = self._loop.time()
        for data in held:
            try:
                self._send_up(route, data)
            except WireError as error:
                self._dropped("up", error.reason)

    def _send_up(self, route: Route, data: bytes | memoryview) -> None:
        if route.sock is None:
            raise WireError(route.reason, "no way there")
        if not _passes(self._limit_up, len(data), self._now):
            raise WireError(Reason.OVERLOADED, "above the user's bytes per second")
        try:
            self._far.send(route, data)
        except OSError as error:
            raise WireError(_reason(error), "not sent") from None
        self.bytes_up += len(data)
        self._last = self._now

    def _receive_down(self, sock: socket.SocketType) -> None:
        try:
            datagram, size = self._far.receive(sock)
        except WireError as error:
            self._dropped("down", error.reason)
            return
        if not _passes(self._limit_down, size, self._now):
            self._dropped("down", Reason.OVERLOADED)
            return
        try:
            self._near.send(datagram)
        except OSError as error:
            self._dropped("down", _reason(error))
            return
        self.bytes_down += size
        self._last = self._now


def _passes(limit: Bucket | None, size: int, now: float) -> bool:
    if limit is None:
        return True
    taken = limit.take(size, now)
    if taken < size:
        limit.give_back(taken)
    return taken >= size


def _reason(error: OSError) -> Reason:
    if isinstance(error, BlockingIOError):
        return Reason.OVERLOADED
    if error.errno == errno.EMSGSIZE:
        return Reason.TOO_LARGE
    return TARGET_ERRORS.get(error.errno or 0, Reason.NODE_DIAL)

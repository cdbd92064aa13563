"""The node's side of one SOCKS5 association: sockets that leave by the exit, or an upstream's relay of datagrams.

Says where a datagram of the client may go and sends it there; takes what comes back, judges it, and makes it into what
the client is to get. Keeps no time and watches no datagram socket: that is `udp`'s.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from math import inf
from socket import SocketType
from typing import Protocol

from gateway import targets
from gateway.config import Network
from gateway.destinations import KEPT, Destinations, Peer, Route, Sockets
from gateway.links import Link, Relay
from gateway.poller import READ, Poller
from gateway.upstream import check_name
from gateway.wire import socks_udp
from gateway.wire.base import Target, WireError
from gateway.wire.socks import ATYP_NAME
from health.reasons import Reason

PEERS = 1024  # whose answers are let in; the one not written to for longest goes first
CHATTER_BYTES = 65536  # what an upstream may say on a TCP connection that is only held open

Found = Callable[[Route, list[bytes]], None]


class Far(Protocol):
    """What an association needs of it."""

    @property
    def sockets(self) -> Collection[SocketType]:
        """Where datagrams arrive: `receive` from these."""

    def begin(self, found: Found, lost: Callable[[], None]) -> None:
        """`found` is told a route and the datagrams that waited for it, `lost` that this side has ended."""

    def find(self, destination: bytes, data: memoryview, now: float) -> Route | None:
        """The route to `destination`, as a datagram's header has it; None where `data` now waits for a look-up.

        Raises WireError when it means nothing, or too much is waiting.
        """

    def send(self, route: Route, data: bytes | memoryview) -> None:
        """Send `data` by a route that has a socket. Raises OSError or WireError."""

    def receive(self, sock: SocketType) -> tuple[memoryview, int]:
        """The next datagram for the client, header included, and how many bytes of it are data.

        It lies in the shared buffer. Raises WireError for one that the client must not get, and OSError.
        """

    def close(self) -> None:
        """Stop, and close every socket. Idempotent."""


class ExitSockets:
    """Datagram sockets that leave by the node itself.

    Args:
        link: the node that looks names up.
        out: its datagram sockets by IP version, not connected.
        allow: networks that the operator opened.
        buffer: scratch space of at least 66 KB, shared with others between events.
    """

    def __init__(self, link: Link, out: Sockets, allow: Sequence[Network], buffer: memoryview) -> None:
        self._link, self._out, self._allow = link, out, allow
        self._buffer, self._payload = buffer, buffer[socks_udp.MAX_HEADER :]
        self._peers: OrderedDict[Peer, bytes] = OrderedDict()
        self._destinations: Destinations | None = None

    @property
    def sockets(self) -> Collection[SocketType]:
        return self._out.values()

    def begin(self, found: Found, lost: Callable[[], None]) -> None:
        """Its end is told by the link."""
        self._destinations = Destinations(self._link, self._out, self._allow, found)

    def find(self, destination: bytes, data: memoryview, now: float) -> Route | None:
        assert self._destinations is not None  # noqa: S101 - begin() comes first
        return self._destinations.find(destination, data, now)

    def send(self, route: Route, data: bytes | memoryview) -> None:
        assert route.sock is not None  # noqa: S101 - the caller has looked
        route.sock.sendto(data, route.peer)
        self._peers[route.peer] = route.header
        self._peers.move_to_end(route.peer)
        if len(self._peers) > PEERS:
            self._peers.popitem(last=False)

    def receive(self, sock: SocketType) -> tuple[memoryview, int]:
        size, sender = sock.recvfrom_into(self._payload)
        header = self._peers.get(sender[:2])
        if header is None:
            raise WireError(Reason.TARGET_FORBIDDEN, "the client did not write there")
        end = socks_udp.MAX_HEADER
        start = end - len(header)
        self._buffer[start:end] = header
        return self._buffer[start : end + size], size

    def close(self) -> None:
        if self._destinations is not None:
            self._destinations.close()
        for sock in self._out.values():
            sock.close()


class UpstreamRelay:
    """The relay of a SOCKS5 upstream. Names are handed on as names, addresses are judged here.

    An answer to a name comes from an address that only the upstream knows: it is let in from every public address, if
    the port is one that the client wrote to by name. `relay`, both of it, is closed with this.
    """

    def __init__(self, poller: Poller, relay: Relay, allow: Sequence[Network], buffer: memoryview) -> None:
        self._poller, self._allow, self._buffer = poller, tuple(allow), buffer
        self._sock, self._control = relay
        self._routes: OrderedDict[bytes, Route] = OrderedDict()
        # Destinations as a header has them, and the ports of those that are names.
        self._peers: OrderedDict[bytes, None] = OrderedDict()
        self._said = 0
        self._lost: Callable[[], None] = lambda: None

    @property
    def sockets(self) -> Collection[SocketType]:
        return (self._sock,)

    def begin(self, found: Found, lost: Callable[[], None]) -> None:
        """Nothing waits for a name here. The relay ends with its TCP connection (RFC 1928 section 6)."""
        self._lost = lost
        self._poller.watch(self._control.fileno(), self._on_control)
        self._on_control(READ)

    def find(self, destination: bytes, data: memoryview, now: float) -> Route:
        return self._find(destination)

    def send(self, route: Route, data: bytes | memoryview) -> None:
        try:
            self._sock.sendmsg((route.header, data))
        except ConnectionRefusedError:
            raise WireError(Reason.NODE_DIAL, "the upstream's relay is closed") from None
        destination = route.header[socks_udp.DESTINATION :]
        self._note(destination)
        if destination[0] == ATYP_NAME:
            self._note(destination[-2:])

    def receive(self, sock: SocketType) -> tuple[memoryview, int]:
        size = sock.recv_into(self._buffer)
        start = socks_udp.data_start(self._buffer[:size])
        if not self._expected(bytes(self._buffer[socks_udp.DESTINATION : start])):
            raise WireError(Reason.TARGET_FORBIDDEN, "the client did not write there")
        return self._buffer[:size], size - start

    def close(self) -> None:
        self._lost = lambda: None
        self._sock.close()
        if self._control.fileno() >= 0:
            self._poller.forget(self._control.fileno())
            self._control.close()

    def _expected(self, sender: bytes) -> bool:
        if sender in self._peers:
            return True
        by_name = sender[0] != ATYP_NAME and sender[-2:] in self._peers
        return by_name and self._find(sender).reason is Reason.OK

    def _find(self, destination: bytes) -> Route:
        route = self._routes.get(destination)
        if route is None:
            route = self._routes[destination] = self._judge(socks_udp.target(destination))
            if len(self._routes) > KEPT:
                self._routes.popitem(last=False)
        else:
            self._routes.move_to_end(destination)
        return route

    def _judge(self, target: Target) -> Route:
        try:
            if target.address is None:
                check_name(target)
            else:
                targets.check(target.address, target.port, self._allow)
        except WireError as error:
            return Route(None, ("", 0), b"", error.reason, inf)
        return Route(self._sock, ("", 0), socks_udp.header_to(target), Reason.OK, inf)

    def _note(self, peer: bytes) -> None:
        self._peers[peer] = None
        self._peers.move_to_end(peer)
        if len(self._peers) > PEERS:
            self._peers.popitem(last=False)

    def _on_control(self, events: int) -> None:
        try:
            while self._said <= CHATTER_BYTES:
                size = self._control.recv_into(self._buffer)
                if not size:
                    break
                self._said += size
        except BlockingIOError:
            return
        except OSError:
            pass
        self._lost()

"""Where the datagrams of one SOCKS5 association may go: each destination judged once, names looked up at the exit.

A datagram for a name that is not known yet waits, within bounds, and holds up no other. Sends nothing itself.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from gateway import targets
from gateway.config import Network
from gateway.errors import LinkError, LookupFailedError
from gateway.links import Link
from gateway.wire import socks_udp
from gateway.wire.base import Target, WireError
from health.reasons import Reason

KEPT = 1024  # destinations; the one not used for longest goes first
NAMES_AT_ONCE = 8
HELD_BYTES = 65536  # what may wait for names, and the names
# A flow stays with the address it began with: an answer's TTL must not move a QUIC connection to another server.
NAME_KEPT_S = 300.0
REFUSAL_KEPT_S = 2.0

Peer = tuple[str, int]
Sockets = Mapping[int, socket.SocketType]


class Route(NamedTuple):
    """How a destination is reached, or (`sock` None) why not.

    `header` goes before answers; `expires` is in the event loop's time.
    """

    sock: socket.SocketType | None
    peer: Peer
    header: bytes
    reason: Reason
    expires: float


class Destinations:
    """What the destinations of one association mean.

    Args:
        link: the node that looks names up.
        out: its datagram sockets by IP version.
        allow: networks that the operator opened.
        found: told the route and the datagrams that waited for it.
    """

    def __init__(
        self, link: Link, out: Sockets, allow: Sequence[Network], found: Callable[[Route, list[bytes]], None]
    ) -> None:
        self._link, self._out, self._allow, self._found = link, out, tuple(allow), found
        self._loop = asyncio.get_running_loop()
        self._routes: OrderedDict[bytes, Route] = OrderedDict()
        self._held: dict[bytes, list[bytes]] = {}
        self._held_bytes = 0
        self._lookups: set[asyncio.Task[None]] = set()

    def find(self, destination: bytes, data: memoryview, now: float) -> Route | None:
        """The route to `destination`, as a datagram's header has it; None where `data` now waits for a look-up.

        Raises WireError when it means nothing, or too much is waiting.
        """
        route = self._routes.get(destination)
        if route is not None and route.expires > now:
            self._routes.move_to_end(destination)
            return route
        target = socks_udp.target(destination)
        if target.address is not None:
            return self._keep(destination, self._judge(target, [target.address]))
        self._hold(destination, target, bytes(data))
        return None

    def close(self) -> None:
        """End the look-ups. Idempotent."""
        for task in self._lookups:
            task.cancel()

    def _keep(self, destination: bytes, route: Route) -> Route:
        self._routes[destination] = route
        self._routes.move_to_end(destination)
        if len(self._routes) > KEPT:
            self._routes.popitem(last=False)
        return route

    def _hold(self, destination: bytes, target: Target, data: bytes) -> None:
        cost = len(data) + len(destination)
        crowded = destination not in self._held and len(self._held) >= NAMES_AT_ONCE
        if crowded or self._held_bytes + cost > HELD_BYTES:
            raise WireError(Reason.OVERLOADED, "too many datagrams wait for names")
        if destination not in self._held:
            self._held[destination] = []
            task = self._loop.create_task(self._look_up(destination, target), name="datagram name")
            self._lookups.add(task)
            task.add_done_callback(self._lookups.discard)
        self._held[destination].append(data)
        self._held_bytes += cost

    async def _look_up(self, destination: bytes, target: Target) -> None:
        try:
            found = [ip_address(text) for text in await self._link.resolve(target.host)]
            route = self._judge(target, found, before=self._routes.get(destination))
        except LinkError:
            route = self._refusal(Reason.NODE_DIAL)
        except LookupFailedError as error:
            route = self._refusal(error.reason)
        finally:
            held = self._held.pop(destination)
            self._held_bytes -= sum(len(data) + len(destination) for data in held)
        self._found(self._keep(destination, route), held)

    def _judge(self, target: Target, found: Sequence[IPv4Address | IPv6Address], before: Route | None = None) -> Route:
        """The route to the first of the addresses that the node can reach, or to the one in use `before`.

        One forbidden address among them condemns them all: a mixed answer is an attack or a mistake.
        """
        try:
            for address in found:
                targets.check(address, target.port, self._allow)
                if ourselves := self._link.verdict(str(address), target.port):
                    raise ourselves
        except WireError as error:
            return self._refusal(error.reason)
        routes = [self._route(address, target) for address in found if address.version in self._out]
        if not routes:
            return self._refusal(Reason.ADDRESS_UNSUPPORTED)
        return next((route for route in routes if before is not None and route.peer == before.peer), routes[0])

    def _route(self, address: IPv4Address | IPv6Address, target: Target) -> Route:
        peer = (numeric(address), target.port)
        expires = self._loop.time() + NAME_KEPT_S
        return Route(self._out[address.version], peer, socks_udp.header(address, target.port), Reason.OK, expires)

    def _refusal(self, reason: Reason) -> Route:
        return Route(None, ("", 0), b"", reason, self._loop.time() + REFUSAL_KEPT_S)


def numeric(address: IPv4Address | IPv6Address) -> str:
    """The text of an address as recvfrom(2) gives it (that of ipaddress differs for IPv4-mapped ones)."""
    return socket.inet_ntop(socket.AF_INET if address.version == 4 else socket.AF_INET6, address.packed)

"""What all sessions of one worker process share, and who its clients are."""

import asyncio
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from gateway.config import GatewaySettings
from gateway.connection_log import ConnectionLog
from gateway.deadlines import Deadlines
from gateway.dial import Dialler
from gateway.identity import Identifier, Place
from gateway.limits import Limiter
from gateway.metrics import Metrics
from gateway.poller import Poller
from gateway.pools import Fleet
from gateway.relay import Shared
from gateway.resources import MOST_DESCRIPTORS
from gateway.wire.base import Address

if TYPE_CHECKING:
    from gateway.session import Session

PEERS_KEPT = 16_384
PROXY_HEADER_S = 3.0
LINGER_S = 1.0


class Peer(NamedTuple):
    """Who connects, by its address alone."""

    address: Address
    loopback: bool
    trusted: bool
    allowed: bool


class Worker:
    """One worker's parts, and its open sessions. `places`: connections that its descriptors would be enough for without
    any node.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        poller: Poller,
        fleet: Fleet,
        identifier: Identifier,
        limiter: Limiter,
        metrics: Metrics,
        log: ConnectionLog,
        pipes: int = 32,
        places: int = MOST_DESCRIPTORS,
    ) -> None:
        loop = poller.loop
        self.settings = settings
        self.poller = poller
        self.fleet = fleet
        self.identifier = identifier
        self.limiter = limiter
        self.metrics = metrics
        self.log = log
        self._places = places
        self.dialler = Dialler(fleet, poller, settings.allow_targets, settings.dial_timeout, metrics)
        self.shared = Shared(poller, pipes)
        self.handshakes = Deadlines(loop, settings.handshake_timeout)
        self.proxy_headers = Deadlines(loop, PROXY_HEADER_S)
        self.lingering = Deadlines(loop, LINGER_S)
        self.draining = False
        self.sessions: set[Session] = set()
        self.empty = asyncio.Event()
        self.empty.set()
        self.peer = lru_cache(PEERS_KEPT)(self._look_at)
        self.place = lru_cache(PEERS_KEPT)(self._place)

    @property
    def places(self) -> int:
        """Connections that its descriptors are enough for: each has two, a link to a node one."""
        return max(self._places - len(self.fleet.links) // 2, 1)

    def drain(self) -> None:
        """From now on answers end their connections, and those that only wait for another request end now."""
        self.draining = True
        for session in list(self.sessions):
            session.drain()

    def remove(self, session: "Session") -> None:
        """Forget `session`; `empty` is set while there are none."""
        self.sessions.discard(session)
        self.metrics.open -= 1
        if not self.sessions:
            self.empty.set()

    def _look_at(self, host: str) -> Peer:
        address = ip_address(host.partition("%")[0])
        trusted = any(address in network for network in self.settings.trusted_proxies)
        return Peer(address, address.is_loopback, trusted, self.identifier.welcome(address))

    def _place(self, address: Address, port: int, authority: str | None, from_loopback: bool) -> Place:
        """Authentication is always asked beyond loopback, and on it where configured."""
        inside = from_loopback and address.is_loopback
        return Place((address, port), authority, self.settings.require_auth or not inside)

"""How the gateway reaches one node: sockets to dial with, names looked up at the exit, and who to cut when it dies.

A `vpn` node is reached through its agent's Unix socket; `direct` is this machine itself. A link is usable while its
own agent connection lives and the tunnel is up: that needs no Redis.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple, Protocol

import aiodns
import structlog

from gateway.balance import Carried, Carrier
from gateway.channel import Channel
from gateway.errors import LinkError, LookupFailedError
from gateway.ourselves import Ourselves
from gateway.poller import Poller
from gateway.stock import Budget, Stock
from gateway.wire.base import Target, WireError
from health.agent.protocol import NOT_FOUND
from health.agent_client import Addresses, AgentClient, AgentError
from health.reasons import Reason

log = structlog.get_logger()

NAMES_KEPT = 4096
TTL_RANGE_S = (1.0, 300.0)
RECONNECT_S = (0.05, 1.0)
# A tunnel may come back by itself within 20 s (architecture, section 6); what was open on it is cut after that.
DOWN_GRACE_S = 20.0
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


class Abortable(Protocol):
    """Something that lives on a node and ends with it."""

    def abort(self) -> None: ...


class Relay(NamedTuple):
    """An upstream's relay of datagrams (RFC 1928 section 7): a socket connected to it, and the TCP connection that it
    ends with."""

    datagrams: socket.SocketType
    control: socket.SocketType


@dataclass(slots=True)
class _Name:
    addresses: tuple[str, ...]
    expires: float


class NameCache:
    """Answers by name and family, bounded, least recently used first out. `now` is monotonic seconds."""

    def __init__(self, most: int = NAMES_KEPT) -> None:
        self._most = most
        self._names: OrderedDict[str, _Name] = OrderedDict()

    def get(self, name: str, now: float) -> tuple[str, ...] | None:
        entry = self._names.get(name)
        if entry is None or entry.expires <= now:
            return None
        self._names.move_to_end(name)
        return entry.addresses

    def put(self, name: str, addresses: tuple[str, ...], ttl: float, now: float) -> None:
        low, high = TTL_RANGE_S
        self._names[name] = _Name(addresses, now + min(max(ttl, low), high))
        self._names.move_to_end(name)
        if len(self._names) > self._most:
            self._names.popitem(last=False)

    def clear(self) -> None:
        self._names.clear()


class Link:
    """What all kinds share: who is attached, and the names."""

    families: tuple[str, ...] = ("inet",)
    by_name = False  # True where `open` and `associate` take the target's name itself

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        carried = Carried()
        self.carried: Carrier = carried
        self.dials: set[Abortable] = carried.dials
        self.tunnels: set[Abortable] = carried.tunnels
        self._names = NameCache()

    @property
    def usable(self) -> bool:
        """False while the node is hard-down for this gateway."""
        raise NotImplementedError

    @property
    def generation(self) -> int:
        """Which tunnel this is; rises with every new one. 0 where it means nothing."""
        return 0

    def pop_socket(self, address: str) -> socket.SocketType | None:
        """An unconnected non-blocking stream socket that leaves by this node for `address`; None where none is at
        hand: `fetch_socket` then."""
        return None

    async def fetch_socket(self, address: str) -> socket.SocketType:
        """The same, waiting for it. Raises LinkError."""
        raise LinkError(f"{self.node_id} gives no sockets")

    async def open(self, poller: Poller, target: Target, left: float, *, alone: bool) -> Channel:
        """A connection to `target` within `left` seconds; only where `by_name`. `alone`: no other node could do it.

        Raises LinkError (the node's fault) or WireError (the target's).
        """
        raise NotImplementedError

    async def associate(self, poller: Poller, left: float) -> Relay:
        """A relay of datagrams, asked for within `left` seconds; only where `by_name`. Raises LinkError."""
        raise NotImplementedError

    def carries(self, address: str) -> bool:
        """Whether an address of this family can be dialled here."""
        return ("inet6" if ":" in address else "inet") in self.families

    def verdict(self, address: str, port: int) -> WireError | None:
        """Why this node must not dial `address`, though others may."""
        return None

    def cached(self, name: str) -> tuple[str, ...] | None:
        """The addresses of `name`, if they are known and still hold."""
        return self._names.get(name, time.monotonic())

    async def take_datagram_socket(self, family: str) -> socket.SocketType:
        """An unconnected non-blocking datagram socket that leaves by this node. Raises LinkError."""
        raise LinkError(f"{self.node_id} carries no datagrams")

    async def _look_up(self, name: str, family: str) -> Addresses:
        raise NotImplementedError

    async def resolve(self, name: str) -> tuple[str, ...]:
        """Every address of `name` that this node could dial, in order.

        Raises LinkError (the node's fault) or LookupFailedError (the name's).
        """
        cached = self.cached(name)
        if cached is not None:
            return cached
        answers = await asyncio.gather(*(self._look_up(name, family) for family in self.families))
        found = tuple(address for answer in answers for address in answer.addresses)
        if found:
            ttl = min(answer.ttl for answer in answers if answer.addresses)
            self._names.put(name, found, ttl, time.monotonic())
            return found
        missing = any(answer.error in (NOT_FOUND, "") for answer in answers)
        raise LookupFailedError(Reason.NAME_NOT_FOUND if missing else Reason.NAME_LOOKUP)

    @property
    def in_flight(self) -> int:
        """Connections that are being made or carried."""
        return self.carried.in_flight

    def abort_dials(self) -> None:
        """Cut the dials in progress: another node can still be tried for them."""
        for dial in list(self.dials):
            dial.abort()

    def abort_all(self) -> None:
        """Cut everything."""
        self.abort_dials()
        for tunnel in list(self.tunnels):
            tunnel.abort()

    async def close(self) -> None:
        self.abort_all()


class DirectLink(Link):
    """This machine's own address; only where the operator configured it."""

    def __init__(self, node_id: str, ourselves: Ourselves | None = None) -> None:
        super().__init__(node_id)
        self.families = ("inet", "inet6") if socket.has_ipv6 else ("inet",)
        self._ourselves = ourselves or Ourselves()
        self._resolver: aiodns.DNSResolver | None = None

    @property
    def usable(self) -> bool:
        return True

    def verdict(self, address: str, port: int) -> WireError | None:
        return self._ourselves.verdict(address, port)

    def pop_socket(self, address: str) -> socket.SocketType | None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            sock = socket.SocketType(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            return None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    async def fetch_socket(self, address: str) -> socket.SocketType:
        raise LinkError("no socket: out of descriptors")

    async def take_datagram_socket(self, family: str) -> socket.SocketType:
        try:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            return socket.SocketType(_FAMILIES[family], kind)
        except OSError as error:
            raise LinkError(f"no socket: {error.strerror}") from None

    async def _look_up(self, name: str, family: str) -> Addresses:
        if self._resolver is None:
            self._resolver = aiodns.DNSResolver(timeout=2, tries=2)
        try:
            result = await self._resolver.getaddrinfo(name, family=_FAMILIES[family], type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            absent = error.args[0] in (aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA)
            return Addresses((), 0.0, NOT_FOUND if absent else "failed")
        addresses = tuple(_text(node.addr[0]) for node in result.nodes)
        return Addresses(addresses, 5.0)

    async def close(self) -> None:
        await super().close()
        if self._resolver is not None:
            await self._resolver.close()


class VpnLink(Link):
    """A node whose agent hands sockets over. `on_change` is called when `usable` or `generation` may have changed."""

    def __init__(self, node_id: str, path: str, budget: Budget, on_change: Callable[[], None] = lambda: None) -> None:
        super().__init__(node_id)
        self.path = path
        self._on_change = on_change
        self._client: AgentClient | None = None
        self._up = False
        self._generation = 0
        self._stock = Stock(self._fetch, budget)
        self._cut: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._runner = asyncio.create_task(self._run(), name=f"link {node_id}")

    @property
    def usable(self) -> bool:
        return self._up

    @property
    def generation(self) -> int:
        return self._generation

    def pop_socket(self, address: str) -> socket.SocketType | None:
        return self._stock.pop() if self._up and ":" not in address else None

    async def fetch_socket(self, address: str) -> socket.SocketType:
        if ":" in address:
            return (await self._fetch(1, "inet6"))[0]
        return await self._stock.get()

    async def take_datagram_socket(self, family: str) -> socket.SocketType:
        if not self._up:
            raise LinkError("the tunnel is down")
        (taken,) = await self._fetch(1, family, "dgram")
        return taken

    async def _look_up(self, name: str, family: str) -> Addresses:
        if self._client is None:
            raise LinkError("the agent is gone")
        try:
            return await self._client.resolve(name, family)
        except AgentError as error:
            raise LinkError(str(error)) from None

    async def close(self) -> None:
        self._runner.cancel()
        with suppress(asyncio.CancelledError):
            await self._runner
        if self._client is not None:
            self._client.close()
        self._drop()
        self._stock.close()
        await super().close()

    async def _run(self) -> None:
        delay = RECONNECT_S[0]
        while True:
            self._gone.clear()
            client = AgentClient(self.path, on_state=self._on_state, on_close=self._on_close)
            try:
                hello = await client.connect()
                if hello.node != self.node_id:
                    raise AgentError(f"the agent says it is {hello.node!r}")
            except AgentError:
                client.close()
                await asyncio.sleep(delay)
                delay = min(delay * 2, RECONNECT_S[1])
                continue
            self._client, delay = client, RECONNECT_S[0]
            self.families = hello.families or ("inet",)
            self._on_state(hello.tunnel, hello.generation)
            log.info("agent connected", node=self.node_id, tunnel=hello.tunnel, generation=hello.generation)
            await self._gone.wait()
            log.warning("agent gone", node=self.node_id)
            await asyncio.sleep(delay)

    def _on_state(self, tunnel: str, generation: int) -> None:
        up = tunnel == "up"
        if generation != self._generation or not up:
            self._stock.drop()
            self._names.clear()
        if up != self._up:
            log.info("tunnel", node=self.node_id, state=tunnel, generation=generation)
        self._up, self._generation = up, generation
        self._on_change()
        if up and self._cut is not None:
            self._cut.cancel()
            self._cut = None
        elif not up and self._cut is None:
            self.abort_dials()
            self._cut = asyncio.get_running_loop().call_later(DOWN_GRACE_S, self.abort_all)

    def _on_close(self) -> None:
        self._client = None
        self._drop()
        self.abort_all()
        self._gone.set()

    def _drop(self) -> None:
        self._up = False
        self._on_change()
        self._stock.drop()
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None

    async def _fetch(self, count: int, family: str = "inet", kind: str = "stream") -> list[socket.SocketType]:
        if self._client is None:
            raise LinkError("the agent is gone")
        try:
            generation, sockets = await self._client.sockets(count, family=family, kind=kind)
        except AgentError as error:
            raise LinkError(str(error)) from None
        if generation != self._generation or not self._up:
            for sock in sockets:
                sock.close()
            raise LinkError("the tunnel changed")
        if kind == "stream":
            for sock in sockets:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sockets


def _text(address: str | bytes) -> str:
    text = address.decode() if isinstance(address, bytes) else address
    return str(ip_address(text.partition("%")[0]))

"""The admission gate: a node serves only after it was seen to be what it claims to be.

Tunnel up, kill switch in place, names resolved through the tunnel, and the address seen from outside differs from this
machine's own and lies in the country asked for. All of it through the node's own agent and sockets, within five
seconds. Fails closed: what could not be found out is no proof.
"""

import asyncio
import ipaddress
import json
import socket
import struct
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from control.model import Outcome, Verdict
from health import countries
from health.agent_client import Addresses, AgentError, Hello
from health.model import Node, Tunnel

WITHIN_S = 5.0
OWN_TTL_S = 300.0
MAX_ANSWER = 64 * 1024


class Agent(Protocol):
    """What the gate asks a node's agent (health.agent_client.AgentClient)."""

    async def hello(self) -> Hello: ...

    async def resolve(self, name: str, family: str = ..., timeout: float = ...) -> Addresses: ...

    async def sockets(self, count: int) -> tuple[int, list[socket.SocketType]]: ...


class UnprovedError(Exception):
    """Something could not be found out."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How a caller looks from outside."""

    ip: str
    country: str


class OwnAddress:
    """This machine's own public IPv4 addresses: configured, else asked directly and kept for five minutes.

    Exits carry IPv4, so it is asked over IPv4: another family's address would differ from every exit's and prove
    nothing.
    """

    def __init__(self, url: str, configured: Collection[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._configured = frozenset(configured)
        self._clock = clock
        self._lock = asyncio.Lock()
        self._kept: tuple[float, frozenset[str]] | None = None

    async def get(self) -> frozenset[str]:
        """Raises UnprovedError."""
        if self._configured:
            return self._configured
        async with self._lock:
            if self._kept is None or self._clock() - self._kept[0] >= OWN_TTL_S:
                try:
                    seen = await ask(self._url, aiohttp.TCPConnector(family=socket.AF_INET, force_close=True))
                except UnprovedError as error:
                    raise UnprovedError(f"this machine's own address is unknown: {error}") from None
                self._kept = (self._clock(), frozenset({seen.ip}))
            return self._kept[1]


class Gate:
    """Verifies nodes. `probe_name` is looked up where the address in `url` is a number."""

    def __init__(self, url: str, probe_name: str, own: OwnAddress, within: float = WITHIN_S) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or ""
        self._probe_name = probe_name
        self._own = own
        self._within = within

    async def verify(self, node: Node, agent: Agent) -> Verdict:
        """What can be proved about `node` within five seconds; never raises."""
        generation = 0
        try:
            async with asyncio.timeout(self._within):
                hello = await agent.hello()
                generation = hello.generation
                if hello.node != node.id:
                    return Verdict(Outcome.REFUTED, generation, f"the agent is that of node {hello.node}")
                if not hello.kill_switch:
                    return Verdict(Outcome.REFUTED, generation, "its kill switch is not in place", leak=True)
                if hello.tunnel != Tunnel.UP:
                    return Verdict(Outcome.UNPROVED, generation, f"its tunnel is {hello.tunnel}")
                verdict = await self._exit(node, agent, generation)
                after = await agent.hello()
                if (after.tunnel, after.generation) != (Tunnel.UP, generation):
                    return Verdict(Outcome.UNPROVED, generation, "its tunnel changed meanwhile")
                return verdict
        except TimeoutError:
            return Verdict(Outcome.UNPROVED, generation, f"not verified within {self._within:g} s")
        except (AgentError, UnprovedError) as error:
            return Verdict(Outcome.UNPROVED, generation, str(error))

    async def _exit(self, node: Node, agent: Agent, generation: int) -> Verdict:
        own = await self._own.get()
        addresses = await self._lookup(agent)
        seen = await self._outside(agent, addresses, generation)
        if seen.ip in own:
            return Verdict(Outcome.REFUTED, generation, "its traffic leaves from this machine's own address", leak=True)
        if seen.country != node.country:
            reason = f"its exit {seen.ip} is in {seen.country}, not in {node.country}"
            return Verdict(Outcome.REFUTED, generation, reason, seen.ip, seen.country)
        return Verdict(Outcome.PASSED, generation, "", seen.ip, seen.country)

    async def _lookup(self, agent: Agent) -> tuple[str, ...]:
        numeric = _is_number(self._host)
        name = self._probe_name if numeric else self._host
        found = await agent.resolve(name, timeout=self._within)
        if not found.addresses:
            raise UnprovedError(f"{name} is not resolved through its tunnel: {found.error or 'no address'}")
        return (self._host,) if numeric else found.addresses

    async def _outside(self, agent: Agent, addresses: tuple[str, ...], generation: int) -> Seen:
        made, sockets = await agent.sockets(1)
        try:
            if made != generation:
                raise UnprovedError("its tunnel changed meanwhile")
            stock = list(sockets)
            connector = aiohttp.TCPConnector(
                resolver=_Known(addresses[:1]),
                use_dns_cache=False,
                force_close=True,
                socket_factory=lambda _info: _take(stock),
            )
            return await ask(self._url, connector)
        finally:
            for sock in sockets:
                sock.close()


async def ask(url: str, connector: aiohttp.BaseConnector) -> Seen:
    """Ask who we are, by `connector` (which is closed). Raises UnprovedError."""
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise UnprovedError(f"{url} answered {response.status}")
            body = await response.content.read(MAX_ANSWER)
            while not response.content.at_eof() and len(body) < MAX_ANSWER:
                body += await response.content.read(MAX_ANSWER)
    except TimeoutError:
        raise UnprovedError(f"{url} did not answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise UnprovedError(f"{url} is not reached: {str(error)[:200] or type(error).__name__}") from None
    return parse_insights(body)


def parse_insights(body: bytes) -> Seen:
    """Address and country from an answer of `/v1/helpers/ips/insights`. Raises UnprovedError."""
    try:
        answer: Any = json.loads(body)
        return Seen(str(ipaddress.ip_address(answer["ip"])), countries.normalise(answer["country_code"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnprovedError("the answer about its exit address is not understood") from None


class _Known(AbstractResolver):
    """Gives the addresses the agent found, whatever is asked."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        return None


def _take(stock: list[socket.SocketType]) -> socket.socket:
    if not stock:
        raise OSError("no socket of the node is left")
    sock = socket.socket(fileno=stock.pop().detach())
    # A connection closed normally keeps the namespace of a dead node alive for minutes: end it with a reset.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sock


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

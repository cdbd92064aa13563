"""Reaches nodes through another proxy: somebody's SOCKS5 or HTTP proxy, or the gateway of another machine.

Asks for the target by name: names are resolved at the far end, never here. A SOCKS5 proxy is asked for a relay of
datagrams, too; what goes through that is `udp_far`'s. Who is at fault for a failure is decided in
`wire.upstream_socks` and `wire.upstream_http`; trying another node is the dialler's.
"""

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

import structlog

from gateway.channel import Channel
from gateway.errors import DoubtfulError, LinkError, LookupFailedError
from gateway.links import DirectLink, Link, Relay
from gateway.poller import Poller
from gateway.resources import keep_alive
from gateway.wire.base import Address, Target, WireError
from gateway.wire.upstream_http import MAX_HEAD, HttpClient
from gateway.wire.upstream_socks import Socks5Associate, Socks5Client
from health import upstream
from health.model import Node, NodeKind
from health.reasons import WIRE, Fault, Reason

log = structlog.get_logger()

MAX_LOGIN = 255  # bytes of user and of password, RFC 1929 section 2
PATIENCE = 0.5  # the share of what is left of the deadline that one upstream may use up
_LOCALHOST = "localhost"


class Handshake(Protocol):
    """The client's side of a proxy protocol (wire.upstream_socks, wire.upstream_http)."""

    @property
    def opening(self) -> bytes: ...
    @property
    def asked(self) -> bool: ...
    @property
    def connected(self) -> bool: ...
    def belongs(self, waiting: bytes) -> int: ...
    def receive(self, data: bytes) -> bytes: ...


class UpstreamLink(Link):
    """A node behind the proxy at `url`. `want` is appended to the user (another machine's gateway reads it).

    The password is the first line of the file in `passwords` that is named as user, host and port are written in
    `url`: so a record can neither name another file, nor send a password to another host. It is read again after every
    failure.
    """

    def __init__(self, node_id: str, url: str, passwords: Path | None, want: str = "") -> None:
        super().__init__(node_id)
        self.families = ("inet", "inet6")
        self.by_name = True
        self._upstream = upstream.parse(url)
        self._passwords = passwords
        self._want = want
        self._login: tuple[bytes, bytes] | None = None
        self._here = DirectLink(node_id)

    @property
    def usable(self) -> bool:
        """Always: a dead one is found out by trying, and ejected by the choice."""
        return True

    async def open(self, poller: Poller, target: Target, left: float, *, alone: bool) -> Channel:
        """A connection to `target`; what the target sent first is still in the socket.

        `left` is what is left of the deadline in seconds. The upstream must accept us within half of that, and have
        reached the target within that, too, unless it is `alone` (no other node could be tried).

        Raises:
            LinkError: the node's fault; DoubtfulError where it may have been the target.
            WireError: the target's fault, as the upstream tells.
        """
        check_name(target)
        login = self._credentials()
        kind = Socks5Client if self._upstream.scheme is upstream.Scheme.SOCKS5 else HttpClient
        talk: Handshake = kind(target, login)
        try:
            async with asyncio.timeout(left * PATIENCE) as patience:
                channel = await self._connect(poller)
                await self._ask(channel, talk, patience if alone else None)
                return channel
        except (LinkError, OSError) as error:
            self._login = None
            raise (DoubtfulError if talk.asked else LinkError)(_told(error)) from None

    async def associate(self, poller: Poller, left: float) -> Relay:
        """A relay of datagrams at the upstream, given within half of `left` seconds.

        Raises:
            LinkError: it has none, or names one on another host: whoever it names would be sent what clients say.
        """
        if self._upstream.scheme is not upstream.Scheme.SOCKS5:
            raise LinkError("an HTTP upstream carries no UDP")
        talk = Socks5Associate(self._credentials())
        try:
            async with asyncio.timeout(left * PATIENCE):
                channel = await self._connect(poller)
                await self._ask(channel, talk, None)
                try:
                    keep_alive(channel.sock)
                    datagrams = await self._connected_to(await self._relay(talk.bound, channel))
                except BaseException:
                    channel.close()
                    raise
        except (LinkError, OSError) as error:
            self._login = None
            raise LinkError(_told(error)) from None
        return Relay(datagrams, channel.hand_over())

    async def resolve(self, name: str) -> tuple[str, ...]:
        """Never here: names are handed on."""
        raise LinkError("an upstream resolves names by itself")

    async def close(self) -> None:
        await super().close()
        await self._here.close()

    async def _connect(self, poller: Poller) -> Channel:
        failure = LinkError("the upstream's name has no address")
        for address in await self._addresses():
            try:
                return await self._connect_to(poller, address)
            except LinkError as error:
                failure = error
        raise failure

    async def _addresses(self) -> tuple[str, ...]:
        host = self._upstream.host
        try:
            return (str(ip_address(host)),)
        except ValueError:
            pass
        try:
            return await self._here.resolve(host)
        except LookupFailedError:
            raise LinkError("the upstream's name could not be resolved") from None

    async def _connect_to(self, poller: Poller, address: str) -> Channel:
        sock = self._here.pop_socket(address)
        if sock is None:
            raise LinkError("out of descriptors")
        channel = Channel(poller, sock)
        self.dials.add(channel)
        try:
            code, _ = await channel.connect((address, self._upstream.port))
        except BaseException:
            channel.close()
            raise
        finally:
            self.dials.discard(channel)
        if code:
            channel.close()
            raise LinkError("the upstream is not reached")
        return channel

    async def _ask(self, channel: Channel, talk: Handshake, patience: asyncio.Timeout | None) -> None:
        self.dials.add(channel)
        try:
            await channel.write(talk.opening)
            while not talk.connected:
                if talk.asked and patience is not None:
                    patience.reschedule(None)
                await channel.write(talk.receive(await _next(channel, talk)))
        except WireError as error:
            channel.close()
            if WIRE[error.reason].fault is not Fault.NODE:
                raise
            raise LinkError(error.detail) from None
        except BaseException:
            channel.close()
            raise
        finally:
            self.dials.discard(channel)

    async def _relay(self, bound: Target, channel: Channel) -> tuple[str, int]:
        """Where datagrams go, once it is the host that the upstream itself is on. Raises LinkError."""
        if not bound.port:
            raise LinkError("the upstream names no port for datagrams")
        here = _plain(ip_address(channel.sock.getpeername()[0].partition("%")[0]))
        there = _plain(bound.address) if bound.address is not None else None
        if there is None:  # not looked up: that would be done outside of any tunnel
            same = bound.host.lower().removesuffix(".") == self._upstream.host
        elif there.is_unspecified:  # where you are connected to
            same, there = True, None
        else:
            same = there == here or str(there) in await self._addresses()
        if not same:
            raise LinkError("the upstream wants datagrams to be sent to another host")
        return str(there or here), bound.port

    async def _connected_to(self, relay: tuple[str, int]) -> socket.SocketType:
        sock = await self._here.take_datagram_socket("inet6" if ":" in relay[0] else "inet")
        try:
            sock.connect(relay)
        except BaseException:
            sock.close()
            raise
        return sock

    def _credentials(self) -> tuple[bytes, bytes] | None:
        if self._login is None and self._upstream.user is not None:
            self._login = ((self._upstream.user + self._want).encode(), self._password())
        return self._login

    def _password(self) -> bytes:
        try:
            if self._passwords is None:
                raise ValueError("gateway.upstream_passwords is not set")
            password = (self._passwords / self._upstream.authority).read_bytes().partition(b"\n")[0].rstrip(b"\r")
            if not 0 < len(password) <= MAX_LOGIN:
                raise ValueError(f"it holds no password of 1 to {MAX_LOGIN} bytes")
        except (OSError, ValueError) as error:
            log.error(
                "no password for an upstream", node=self.node_id, file=self._upstream.authority, reason=str(error)
            )
            raise LinkError("its password cannot be read here") from None
        return password


def check_name(target: Target) -> None:
    """Refuse a name that would mean the upstream itself. Raises WireError: TARGET_FORBIDDEN."""
    if target.host == _LOCALHOST or target.host.endswith("." + _LOCALHOST):  # RFC 6761 section 6.3
        raise WireError(Reason.TARGET_FORBIDDEN, "localhost would be the upstream's own machine")


def _plain(address: Address) -> Address:
    return (address.ipv4_mapped if address.version == 6 else None) or address


def _told(error: Exception) -> str:
    if isinstance(error, LinkError):
        return str(error)
    return "no answer from the upstream in time" if isinstance(error, TimeoutError) else "the upstream hung up"


async def _next(channel: Channel, talk: Handshake) -> bytes:
    """Wait, then take what belongs to the handshake, and leave the rest in the socket. Raises OSError at the end."""
    first = await channel.read(1)
    if not first:
        raise ConnectionResetError
    try:
        waiting = channel.sock.recv(MAX_HEAD, socket.MSG_PEEK)
    except BlockingIOError:
        waiting = b""
    more = talk.belongs(first + waiting) - 1
    return first + channel.sock.recv(more) if more else first


@dataclass(frozen=True, slots=True)
class Routes:
    """Which nodes are reached through a proxy, and how. `machines` are the gateways of other machines, by name."""

    here: str
    machines: Mapping[str, str]
    passwords: Path | None

    def reaches(self, node: Node) -> bool:
        """True where this gateway has a way to `node`: it is on this machine, or on one whose gateway is known."""
        return node.machine == self.here or node.machine in self.machines

    def link(self, node: Node) -> UpstreamLink | None:
        """A link for `node` if a proxy stands before it."""
        if node.machine != self.here:
            want = f"-node-{node.id}-strict"
            return UpstreamLink(node.id, self.machines[node.machine], self.passwords, want)
        if node.kind is NodeKind.UPSTREAM and node.upstream:
            return UpstreamLink(node.id, node.upstream, self.passwords)
        return None

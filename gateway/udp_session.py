"""SOCKS5 UDP ASSOCIATE for one client (RFC 1928 sections 4 and 7), from the request to the log line.

The association lives as long as its TCP connection, on which nothing more is said. Datagrams do not pass HAProxy: a
client that came to us on loopback sends them there, others to `udp_advertise`.
"""

import asyncio
import errno
import random
import socket
import time
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway.channel import AbortedError
from gateway.destinations import Peer, numeric
from gateway.dialled import Dialled
from gateway.errors import LinkError
from gateway.links import Link
from gateway.session import Session
from gateway.udp import Association
from gateway.udp_far import ExitSockets, Far, UpstreamRelay
from gateway.wire import socks
from gateway.wire.base import Target, WireError
from gateway.worker import Worker
from health.model import Node
from health.reasons import Reason

MOST = 1000  # associations of a worker, 3 or 4 descriptors each: as many as two connections
CHATTER_BYTES = 65536  # what a client may say on the TCP connection while it is only held open

_FAMILIES = {"inet": 4, "inet6": 6}


async def serve_udp(session: Session, origin: Target) -> None:
    """Answer the request and carry datagrams until the client, the node or the time-out ends it.

    `origin` is where the client says its datagrams will come from. Raises WireError after the refusal was sent.
    """
    numbers = session.worker.metrics
    numbers.udp_associations += 1
    try:
        await _serve(session, origin)
    finally:
        numbers.udp_associations -= 1


async def _serve(session: Session, origin: Target) -> None:
    try:
        near, told = _near_socket(session)
        try:
            dialled, far = await _take_exit(session)
        except BaseException:
            near.close()
            raise
    except WireError as error:
        session.refuse(socks.error_reply(error.reason))
        raise
    session.dialled = dialled
    drops: Counter[str] = Counter()
    association = _associate(session, near, far, _client(session, origin), drops)
    session.traffic = association
    loop, settings = asyncio.get_running_loop(), session.worker.settings
    lifetime = loop.call_later(settings.max_lifetime, association.end, Reason.LIFETIME)
    reason = Reason.SHUTDOWN
    try:
        reason = await _hold(session, association, socks.reply(0, told, near.getsockname()[1]))
    finally:
        session.traffic = None
        lifetime.cancel()
        dialled.link.tunnels.discard(association)
        association.close()
        detail = ", ".join(f"{count} dropped {what}" for what, count in drops.items())
        session.record(reason, up=association.bytes_up, down=association.bytes_down, detail=detail)


def _associate(session: Session, near: socket.SocketType, far: Far, client: Peer, drops: Counter[str]) -> Association:
    assert session.dialled is not None  # noqa: S101 - set by the caller
    worker, link = session.worker, session.dialled.link

    def dropped(direction: str, reason: Reason) -> None:
        drops[f"{direction} ({reason})"] += 1
        worker.metrics.datagram_dropped(direction, reason)

    association = Association(
        worker.poller,
        near,
        client,
        far,
        worker.shared.buffer,
        limits=(session.grant.up, session.grant.down) if session.grant else (None, None),
        idle=worker.settings.udp_idle_timeout,
        ended=session.channel.close,
        dropped=dropped,
    )
    link.tunnels.add(association)
    return association


async def _hold(session: Session, association: Association, answer: bytes) -> Reason:
    """Tell the client, and wait for the end; returns why it ended."""
    try:
        await session.channel.write(answer)
        said = len(session.data)
        while said <= CHATTER_BYTES:
            chunk = await session.channel.read()
            if not chunk:
                return Reason.OK
            said += len(chunk)
    except AbortedError:
        return association.reason
    except OSError:
        return Reason.CLIENT_RESET
    return Reason.BAD_REQUEST


def _client(session: Session, origin: Target) -> Peer:
    """Where the client's datagrams come from; port 0 until the first one is seen.

    The port it names counts only beside the very address it has for us: behind a NAT both are wrong, and 0.0.0.0 says
    that it does not know (RFC 1928 section 4).
    """
    return numeric(session.source), origin.port if origin.address == session.source else 0


def _near_socket(session: Session) -> tuple[socket.SocketType, IPv4Address | IPv6Address]:
    """A bound socket for the client's datagrams, and the address to tell it. Raises WireError."""
    numbers, places = session.worker.metrics, session.worker.places
    if numbers.udp_associations > MOST:
        raise WireError(Reason.OVERLOADED, f"{MOST} UDP associations are open")
    if numbers.open + numbers.udp_associations > places:
        raise WireError(Reason.OVERLOADED, f"no descriptors left for UDP: there are enough for {places} connections")
    told = _loopback(session) or _advertised(session)
    settings = session.worker.settings
    ports = _shuffled(settings.udp_ports) if settings.udp_ports else (0,)
    try:
        try:
            return _bound(str(told), ports), told
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
        # The address is forwarded to this machine, not its own.
        return _bound("0.0.0.0" if told.version == 4 else "::", ports), told  # noqa: S104 - judged per datagram
    except OSError as error:
        raise WireError(Reason.OVERLOADED, f"no UDP socket for the client: {error.strerror}") from None


def _loopback(session: Session) -> IPv4Address | IPv6Address | None:
    """The loopback address that the client itself connected to, None where it did not or something stood between."""
    here, peer = (ip_address(name[0].partition("%")[0]) for name in _names(session.channel.sock))
    return here if here.is_loopback and peer == session.source else None


def _names(sock: socket.SocketType) -> tuple[Peer, Peer]:
    try:
        return sock.getsockname(), sock.getpeername()
    except OSError:
        raise AbortedError from None


def _advertised(session: Session) -> IPv4Address | IPv6Address:
    version = session.source.version
    addresses = [address for address in session.worker.settings.udp_advertise if address.version == version]
    if addresses:
        dialled = session.destination[0]  # another machine's gateway takes no address but the one it knows
        return dialled if dialled in addresses else addresses[0]
    detail = f"UDP ASSOCIATE beyond loopback needs gateway.udp_advertise with an IPv{version} address"
    raise WireError(Reason.COMMAND_UNSUPPORTED, detail)


def _shuffled(ports: str) -> Iterable[int]:
    first, last = map(int, ports.split("-"))
    return random.sample(range(first, last + 1), last + 1 - first)


def _bound(host: str, ports: Iterable[int]) -> socket.socket:
    """A datagram socket on the first of `ports` that is free. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        for port in ports:
            try:
                sock.bind((host, port))
                return sock
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, "all ports of udp_ports are in use")
    except BaseException:
        sock.close()
        raise


async def _take_exit(session: Session) -> tuple[Dialled, Far]:
    """The best node that carries datagrams, and how. Raises WireError, like a dial."""
    worker, started, tried, last = session.worker, time.monotonic(), set[str](), ""
    allowed = session.user.allowed_countries if session.user else ()
    timeout = worker.settings.dial_timeout
    try:
        async with asyncio.timeout(timeout):
            if not worker.fleet.knows_session(session.want, session.owner):
                await worker.fleet.recall_session(session.want, session.owner, allowed)
            while True:
                try:
                    node, link, _ = worker.fleet.choose(session.want, session.owner, allowed, tried)
                except WireError as error:
                    if not last:
                        raise
                    raise WireError(Reason.NO_NODE, f"{error.detail}; the last one tried: {last}") from None
                left = timeout - (time.monotonic() - started)
                try:
                    far = await _far(session.worker, link, left)
                    return _dialled(session, node, link, far, started), far
                except LinkError as error:
                    tried.add(node.id)
                    last = str(error)
    except TimeoutError:
        raise WireError(Reason.NODE_DOWN, f"no exit gave a datagram socket within {timeout:g} s") from None


def _dialled(session: Session, node: Node, link: Link, far: Far, started: float) -> Dialled:
    sock = next(iter(far.sockets))
    return Dialled(session.worker.poller, node, link, sock, time.monotonic() - started)


async def _far(worker: Worker, link: Link, left: float) -> Far:
    """The node's side of an association. Raises LinkError."""
    allow, buffer = worker.settings.allow_targets, worker.shared.buffer
    if link.by_name:
        return UpstreamRelay(worker.poller, await link.associate(worker.poller, left), allow, buffer)
    return ExitSockets(link, await _sockets(link), allow, buffer)


async def _sockets(link: Link) -> dict[int, socket.SocketType]:
    out: dict[int, socket.SocketType] = {}
    try:
        for family in link.families:
            out[_FAMILIES[family]] = await link.take_datagram_socket(family)
    except BaseException:
        for sock in out.values():
            sock.close()
        raise
    return out

"""The first bytes of a client: a PROXY header where its peer must send one, then whichever protocol it speaks."""

import re
import socket

from gateway import http_session, socks_session
from gateway.session import ClientProtocol, Session
from gateway.wire import proxy_protocol
from gateway.wire.base import Address, WireError
from gateway.wire.sniff import Kind, sniff
from gateway.worker import Worker
from health.reasons import Reason

# What the proxy in front logs, too: as it is, or not at all, so that one search finds both. It goes into a header field
# and a log line unescaped.
_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_STEPS = {
    Kind.HTTP: http_session.step,
    Kind.SOCKS5: socks_session.step5,
    Kind.SOCKS4: socks_session.step4,
}
_ANSWERS: dict[Kind, ClientProtocol] = {
    Kind.HTTP: http_session.ANSWERS,
    Kind.SOCKS5: socks_session.GREETING5,
    Kind.SOCKS4: socks_session.ANSWERS4,
}


def welcome(worker: Worker, sock: socket.SocketType, host: str, here: tuple[Address, int]) -> None:
    """Begin with a client that connected from `host` to `here`."""
    peer = worker.peer(host)
    place = worker.place(*here, None, peer.loopback)
    if peer.trusted:
        Session(worker, sock, peer.address, place, _proxy_header).start(worker.proxy_headers)
        return
    step = first_step if peer.allowed else _turn_away
    Session(worker, sock, peer.address, place, step).start(worker.handshakes)


def _turn_away(session: Session) -> None:
    """Say no in the client's own protocol, once that is known. Raises WireError."""
    kind = sniff(session.data)
    if kind is not None:
        session.protocol = _ANSWERS.get(kind)
        allowed = "among the client addresses that may use this proxy (gateway.allow_clients)"
        raise WireError(Reason.CLIENT_FORBIDDEN, f"{session.source} is not {allowed}")


def first_step(session: Session) -> None:
    """Which protocol it is. Raises WireError."""
    if http_session.step_known(session):
        return
    kind = sniff(session.data)
    if kind is None:
        return
    step = _STEPS.get(kind)
    if step is None:
        if kind in (Kind.PROXY_V1, Kind.PROXY_V2):
            raise WireError(Reason.PROXY_HEADER, "a PROXY header from a peer that is not trusted")
        raise WireError(Reason.BAD_REQUEST, "neither HTTP nor SOCKS")
    session.step = step
    step(session)


def _proxy_header(session: Session) -> None:
    parsed = proxy_protocol.parse(session.data)
    if parsed is None:
        return
    header, used = parsed
    session.data = session.data[used:]
    worker, step = session.worker, first_step
    if not header.local and header.source is not None and header.destination is not None:
        peer = worker.peer(str(header.source[0]))
        session.source = peer.address
        session.place = worker.place(*header.destination, header.authority, peer.loopback)
        step = first_step if peer.allowed else _turn_away
    if header.unique_id is not None and _ID.fullmatch(header.unique_id):
        session.conn_id = header.unique_id.decode("ascii")
    session.deadline(worker.handshakes)
    session.step = step
    if session.data:
        step(session)

"""SOCKS for one client (RFC 1928, RFC 1929; the SOCKS4 and 4a memos).

Exactly one reply, sent when the outcome is known.
"""

from socket import AF_INET, AF_INET6, inet_pton

from gateway import session_tasks
from gateway.dialled import Dialled
from gateway.identity import socks_raw
from gateway.session import Session
from gateway.udp_session import serve_udp
from gateway.wire import socks, socks4
from gateway.wire.base import WireError


def step5(session: Session) -> None:
    """Go on with SOCKS5 as far as the bytes reach. Raises WireError."""
    handshake: socks.Socks5Handshake | None = session.state
    if handshake is None:
        session.protocol = GREETING5
        handshake = session.state = socks.Socks5Handshake(auth_required=session.must_authenticate)
    if session.data:
        handshake.receive(session.data)
        session.data = b""
    while True:
        event = handshake.next_event()
        if isinstance(event, socks.NeedData):
            return
        if isinstance(event, socks.Send):
            session.protocol = LOGIN5 if event.data[1] == socks.USER_PASSWORD else ANSWERS5
            session.send(event.data)
        elif isinstance(event, socks.Credentials):
            if not _log_in(session, event.username, event.password):
                return
        else:
            _requested(session, event)
            return


def step4(session: Session) -> None:
    """The same for SOCKS4 and 4a. Raises WireError."""
    session.protocol = ANSWERS4
    handshake: socks4.Socks4Handshake | None = session.state
    if handshake is None:
        handshake = session.state = socks4.Socks4Handshake(auth_required=session.must_authenticate)
    handshake.receive(session.data)
    session.data = b""
    event = handshake.next_event()
    if isinstance(event, socks4.Request):
        session.data, target = handshake.leftover, event.target
        pair = (event.user_id, "")
        session.identify_then(socks_raw(*pair), lambda: pair, lambda session: session.dial_to(target))


def _log_in(session: Session, user: str, password: str) -> bool:
    """True where the same was proved before; else the steps go on once it is."""
    raw = socks_raw(user, password)
    denied = None
    try:
        known = session.known(raw)
    except WireError as error:
        known, denied = True, error
    if known:
        _proved(session, denied)
    else:
        session.run(session_tasks.log_in(session, raw, (user, password), _go_on))
    return known


def _proved(session: Session, denied: WireError | None) -> None:
    session.protocol = ANSWERS5
    session.send(session.state.auth_result(True, denied))


def _go_on(session: Session, denied: WireError | None) -> None:
    _proved(session, denied)
    session.resume()


def _requested(session: Session, request: socks.Request) -> None:
    session.data = session.state.leftover
    if session.identity is None:
        session.identify_then(b"", lambda: None, lambda session: _act(session, request))
    else:
        _act(session, request)


def _act(session: Session, request: socks.Request) -> None:
    if request.command is socks.Command.UDP_ASSOCIATE:
        session.untimed()
        session.run(serve_udp(session, request.target))
    else:
        session.dial_to(request.target)


class _Socks5:
    """What is told to a client that has made its request."""

    def connected(self, session: Session, dialled: Dialled) -> bytes:
        host, port = dialled.sock.getsockname()[:2]
        return socks.bound_reply(inet_pton(AF_INET6 if ":" in host else AF_INET, host), port)

    def refused(self, session: Session, error: WireError) -> bytes:
        return socks.error_reply(error.reason)


class _Socks5Greeting(_Socks5):
    """Before anything was agreed on, the one refusal there is: no method will do (RFC 1928 section 3)."""

    def refused(self, session: Session, error: WireError) -> bytes:
        return socks.NO_METHOD_WILL_DO


class _Socks5Login(_Socks5):
    """While user name and password are checked, a refusal is theirs (RFC 1929 section 2)."""

    def refused(self, session: Session, error: WireError) -> bytes:
        return socks.LOGIN_REFUSED


class _Socks4:
    def connected(self, session: Session, dialled: Dialled) -> bytes:
        return socks4.GRANTED

    def refused(self, session: Session, error: WireError) -> bytes:
        return socks4.REFUSED


GREETING5: _Socks5Greeting = _Socks5Greeting()
ANSWERS5: _Socks5 = _Socks5()
LOGIN5: _Socks5Login = _Socks5Login()
ANSWERS4: _Socks4 = _Socks4()

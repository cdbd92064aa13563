"""HTTP for one client: CONNECT (RFC 9110 section 9.3.6) and absolute-form requests with keep-alive (RFC 9112).

A refused request always ends the connection, so that nothing sent along with it can run (RFC 9931).
"""

import secrets
from hashlib import blake2b
from typing import NamedTuple

from gateway.dialled import Dialled
from gateway.plain_http import serve
from gateway.session import Session
from gateway.wire import http_connect
from gateway.wire.base import Target, WireError
from gateway.wire.http_head import Head, parse_head
from gateway.wire.http_reply import connect_response, error_response


def step_known(session: Session) -> bool:
    """Whether the very same CONNECT was sent and proved before; then it is on its way. Raises WireError."""
    asked = _CONNECTS.get(session.data)
    if asked is None:
        return False
    session.protocol = ANSWERS
    if not session.known(asked.raw):
        return False
    session.data = b""
    session.dial_to(asked.target)
    return True


def step(session: Session) -> None:
    """Read the first request. CONNECT is answered by steps, anything else by a task. Raises WireError."""
    session.protocol = ANSWERS
    data = session.data
    head = parse_head(data, session.state or 0)
    if head is None:
        session.state = len(data)
        return
    session.state = head
    if head.method == b"CONNECT":
        _connect(session, head)
    else:
        session.run(serve(session, head, _connect))


class _Answers:
    """What HTTP clients are told."""

    def connected(self, session: Session, dialled: Dialled) -> bytes:
        node = dialled.node
        return connect_response(node.id, node.country, session.conn_id, dialled.moved)

    def refused(self, session: Session, error: WireError) -> bytes:
        head = session.state
        head_only = isinstance(head, Head) and head.method == b"HEAD"
        fields = [("X-Request-Id", session.conn_id)]
        if error.retry_after:
            fields.append(("Retry-After", str(error.retry_after)))  # RFC 9110 section 10.2.3
        return error_response(error.reason, error.detail, fields, head_only=head_only)


ANSWERS: _Answers = _Answers()


class _Connect(NamedTuple):
    """What a CONNECT request asks for; `raw` stands for its credentials."""

    target: Target
    raw: bytes


class _Connects:
    """The last CONNECT requests, by what was sent: browsers and scrapers send the same head again and again.

    A head is kept as a keyed digest, since it holds a password.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, _Connect] = {}

    def get(self, data: bytes) -> _Connect | None:
        return self._known.get(self._digest(data))

    def put(self, data: bytes, asked: _Connect) -> None:
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[self._digest(data)] = asked

    def raw(self, head: Head) -> bytes:
        """A stand-in for the credentials as they were sent."""
        sent = http_connect.raw_credentials(head)
        return self._digest(sent) if sent else b""

    def _digest(self, data: bytes) -> bytes:
        return blake2b(data, digest_size=16, key=self._key).digest()


_CONNECTS = _Connects()


def _connect(session: Session, head: Head) -> None:
    target = http_connect.connect_target(head)
    raw = _CONNECTS.raw(head)
    if head.consumed == len(session.data):
        _CONNECTS.put(session.data, _Connect(target, raw))
    session.data = session.data[head.consumed :]
    session.identify_then(raw, lambda: http_connect.credentials(head), lambda session: session.dial_to(target))

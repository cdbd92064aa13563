"""HTTP CONNECT (RFC 9110 section 9.3.6) with Basic (RFC 7617), the client's side: how an upstream is asked.

The shell sends `opening`, then hands over what arrives, but never more than `belongs` says: the bytes after the head of
a 2xx answer are the tunnel's and stay where they are.
"""

import re
from base64 import b64encode

from gateway.wire.base import Target, WireError
from gateway.wire.http_head import Answer, parse_answer
from health.reasons import Reason

MAX_HEAD = 16384  # bytes, interim answers included

_END = b"\r\n\r\n"
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_ERROR = re.compile(rb";[ ]*error=([a-z0-9_\-]+)")

# RFC 9209 section 2.3: the types that speak of the target. Any other type is the upstream's own fault.
PROXY_ERRORS = {
    b"dns_timeout": Reason.NAME_LOOKUP,
    b"dns_error": Reason.NAME_NOT_FOUND,
    b"destination_ip_prohibited": Reason.TARGET_FORBIDDEN,
    b"destination_ip_unroutable": Reason.HOST_UNREACHABLE,
    b"connection_refused": Reason.REFUSED,
    b"connection_timeout": Reason.TARGET_TIMEOUT,
    b"proxy_loop_detected": Reason.LOOP,
}
# RFC 9110 section 15.6, where no Proxy-Status says more. Any other status is the upstream's own fault.
STATUSES = {
    502: Reason.HOST_UNREACHABLE,
    504: Reason.TARGET_TIMEOUT,
}


class HttpClient:
    """One CONNECT. `login` is user (without a colon) and password, or None."""

    def __init__(self, target: Target, login: tuple[bytes, bytes] | None) -> None:
        authority = target.authority.encode("ascii")
        basic = b"" if login is None else b"Proxy-Authorization: Basic %b\r\n" % b64encode(b":".join(login))
        self.opening = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (authority, authority, basic)
        """What to send first."""
        self._head = b""
        self._interim = 0
        self.asked = True
        """The target is named at once: from then on the upstream may be waiting for it."""
        self.connected = False

    def belongs(self, waiting: bytes) -> int:
        """How many of the bytes that arrived belong to the handshake; at least 1 while not `connected`."""
        end = (self._head + waiting).find(_END, max(0, len(self._head) - len(_END) + 1))
        return len(waiting) if end < 0 else end + len(_END) - len(self._head)

    def receive(self, data: bytes) -> bytes:
        """Take bytes that belong; there is never anything to send next.

        Raises:
            WireError: the upstream refused, or answers nonsense. The reason says whose fault it is.
        """
        scanned = len(self._head)
        self._head += data
        if self._interim + len(self._head) > MAX_HEAD:
            raise _nonsense()
        try:
            answer = parse_answer(self._head, scanned)
        except WireError:
            raise _nonsense() from None
        if answer is not None:
            self._interim += len(self._head)
            self._head = b""
            self._judge(answer)
        return b""

    def _judge(self, answer: Answer) -> None:
        if answer.status == 101:
            raise _nonsense()
        if answer.status >= 300:
            raise WireError(_reason(answer), f"the upstream answered {answer.status}")
        self.connected = answer.status >= 200


def _reason(answer: Answer) -> Reason:
    told = b", ".join(answer.values(b"proxy-status"))
    error = _ERROR.search(_QUOTED.sub(b'""', told))
    if error is not None:
        return PROXY_ERRORS.get(error[1], Reason.NODE_DIAL)
    return STATUSES.get(answer.status, Reason.NODE_DIAL)


def _nonsense() -> WireError:
    return WireError(Reason.NODE_DIAL, "the upstream's answer to CONNECT is no HTTP")

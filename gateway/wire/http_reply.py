"""The answers the gateway itself gives over HTTP."""

from collections.abc import Iterable
from http import HTTPStatus

from health.reasons import WIRE, Reason

PROXY_NAME = "vpnexit"
MAX_DETAIL = 500  # characters

Field = tuple[bytes, bytes]

_CHALLENGE = (b"Proxy-Authenticate", f'Basic realm="{PROXY_NAME}", charset="UTF-8"'.encode())  # RFC 7617 section 2.1
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_CONTROL = bytes((*range(32), 127))
_TO_SPACE = bytes.maketrans(_CONTROL, b" " * len(_CONTROL))


def connect_response(headers: Iterable[Field] = ()) -> bytes:
    """The answer to a CONNECT whose target is connected. `headers` tell the exit (X-Exit-Node, X-Exit-Country).

    Raises:
        ValueError: a field that frames a body, which this answer must not have (RFC 9110 section 9.3.6).
    """
    fields = list(headers)
    if any(name.lower() in _FRAMING for name, _ in fields):
        raise ValueError("the answer to CONNECT carries no Content-Length and no Transfer-Encoding")
    return _head("200 Connection established", fields)


def error_response(
    reason: Reason, detail: str, proxy_status: str, headers: Iterable[Field] = (), *, head_only: bool = False
) -> bytes:
    """A complete HTTP/1.1 error answer in plain words, after which the connection closes.

    The status comes from `reason`; `proxy_status` is the error type of RFC 9209 section 2.3; `head_only` leaves the
    body out, as the answer to HEAD must. Control characters in fields become spaces.
    """
    wire = WIRE[reason]
    detail = detail[:MAX_DETAIL]
    words = f"{wire.text}: {detail}" if detail else wire.text
    status = f"{wire.http} {HTTPStatus(wire.http).phrase}"
    body = f"{status}\n{words}\n".encode(errors="replace")
    fields = [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", str(len(body)).encode()),
        (b"Cache-Control", b"no-store"),
        (b"Proxy-Status", _proxy_status(proxy_status, detail).encode()),
        *([_CHALLENGE] if wire.http == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else []),
        *headers,
        (b"Connection", b"close"),
    ]
    head = _head(status, fields)
    return head if head_only else head + body


def sf_string(text: str) -> str:
    """`text` as a structured-field string (RFC 8941 section 3.3.3); what it cannot hold becomes `?`."""
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    escaped = printable.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _proxy_status(error: str, detail: str) -> str:
    status = f"{PROXY_NAME}; error={error}"
    return f"{status}; details={sf_string(detail)}" if detail else status


def _head(status: str, fields: Iterable[Field]) -> bytes:
    lines = [b"HTTP/1.1 " + status.encode(), *(name + b": " + value.translate(_TO_SPACE) for name, value in fields)]
    return b"\r\n".join(lines) + b"\r\n\r\n"

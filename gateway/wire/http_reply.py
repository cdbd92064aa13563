"""The answers the gateway itself gives over HTTP."""

from collections.abc import Iterable
from http import HTTPStatus

from health.reasons import WIRE, Reason

PROXY_NAME = "vpnexit"
MAX_DETAIL = 500  # characters

_CHALLENGE = ("Proxy-Authenticate", f'Basic realm="{PROXY_NAME}", charset="UTF-8"')  # RFC 7617 section 2.1


def connect_response(node: str, country: str, request_id: str, moved: str = "") -> bytes:
    """The answer to a CONNECT whose target is connected: no field that frames a body (RFC 9110 section 9.3.6).

    `moved` is the node that the session was on before. All of them are printable ASCII.
    """
    was = f"X-Exit-Moved: {moved}\r\n" if moved else ""
    return (
        "HTTP/1.1 200 Connection established\r\n"
        f"X-Exit-Node: {node}\r\nX-Exit-Country: {country}\r\n{was}X-Request-Id: {request_id}\r\n\r\n"
    ).encode("ascii")


def error_response(
    reason: Reason, detail: str = "", headers: Iterable[tuple[str, str]] = (), *, head_only: bool = False
) -> bytes:
    """A complete HTTP/1.1 error answer in plain words, after which the connection closes.

    Status and Proxy-Status error type (RFC 9209 section 2.3) come from `reason`; `head_only` leaves the body out, as
    the answer to HEAD must. What a field cannot hold becomes `?`.
    """
    wire = WIRE[reason]
    detail = detail[:MAX_DETAIL]
    words = f"{wire.text}: {detail}" if detail and detail != wire.text else wire.text
    status = f"{wire.http} {HTTPStatus(wire.http).phrase}"
    body = f"{status}\n{words}\n".encode(errors="replace")
    fields = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Proxy-Status", _proxy_status(wire.proxy_status, detail)),
        *([_CHALLENGE] if wire.http == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else []),
        *headers,
        ("Connection", "close"),
    ]
    head = _head(status, fields)
    return head if head_only else head + body


def sf_string(text: str) -> str:
    """`text` as a structured-field string (RFC 8941 section 3.3.3); what it cannot hold becomes `?`."""
    return '"' + _printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _proxy_status(error: str, detail: str) -> str:
    status = f"{PROXY_NAME}; error={error}"
    return f"{status}; details={sf_string(detail)}" if detail else status


def _head(status: str, fields: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {_printable(value)}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("ascii")


def _printable(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)

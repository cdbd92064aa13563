"""What a plain HTTP request must look like to be sent on, and which fields go on with it.

Framing after RFC 9112 section 6, field handling after RFC 9110 section 7.6. The bodies themselves are h11's.
"""

import re
from collections.abc import Iterable

from gateway.wire.base import WireError
from gateway.wire.http_head import Head
from health.reasons import Reason

VIA_NAME = b"vpnexit"
MAX_CONTENT_LENGTH = 2**63 - 1

_LENGTH = re.compile(rb"[0-9]{1,19}")
_CODINGS = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*")
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"te", b"upgrade", b"proxy"))
# What Connection may name and still goes on: without these a request means something else to the next server.
_NOT_REMOVABLE = frozenset(
    (
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"host",
        b"set-cookie",
        b"transfer-encoding",
        b"via",
    )
)

Field = tuple[bytes, bytes]


def check_framing(head: Head) -> None:
    """Refuse a request whose end two parsers could see in different places.

    Raises:
        WireError: BAD_REQUEST, or NOT_IMPLEMENTED for a transfer coding other than chunked.
    """
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    if lengths and codings:
        raise _refuse("Content-Length and Transfer-Encoding exclude each other")
    if lengths:
        _check_length(lengths)
    if codings:
        _check_coding(codings, head.version)


def forward_headers(head: Head, host: bytes) -> list[Field]:
    """The fields to send on with a request, names as the client wrote them.

    `host` replaces the Host field and comes first; hop-by-hop fields, those that Connection names and every Proxy-*
    field stay here; one Via is added to those of earlier proxies. `head` must have passed `check_framing`.
    """
    dropped = _connection_options(head.headers)
    fields: list[Field] = [(b"Host", host)]
    via: list[bytes] = []
    for name, (key, value) in zip(head.names, head.headers, strict=True):
        if key == b"via":
            via.append(value)
        elif key == b"transfer-encoding":
            fields.append((name, b"chunked"))
        elif key != b"host" and not _stays_here(key, dropped) and not key.startswith(b"proxy-"):
            fields.append((name, value))
    return [*fields, _via(via, head.version)]


def response_headers(fields: Iterable[Field], version: bytes) -> list[Field]:
    """The fields of a target's answer to send on to the client, Content-Length and Transfer-Encoding among them.

    `version` is the answer's HTTP version (b"1.1"). Proxy-Status goes on (RFC 9209), the other Proxy-* fields speak
    of a proxy that the client does not know.
    """
    listed = [(name, name.lower(), value) for name, value in fields]
    dropped = _connection_options([(key, value) for _, key, value in listed])
    kept: list[Field] = []
    via: list[bytes] = []
    for name, key, value in listed:
        if key == b"via":
            via.append(value)
        elif key == b"proxy-status" or not (key.startswith(b"proxy-") or _stays_here(key, dropped)):
            kept.append((name, value))
    return [*kept, _via(via, version)]


def _refuse(detail: str) -> WireError:
    return WireError(Reason.BAD_REQUEST, detail)


def _check_length(lengths: list[bytes]) -> None:
    if len(lengths) > 1:
        raise _refuse("Content-Length is there more than once")
    if not _LENGTH.fullmatch(lengths[0]) or int(lengths[0]) > MAX_CONTENT_LENGTH:
        raise _refuse("Content-Length is no number of bytes")


def _check_coding(codings: list[bytes], version: bytes) -> None:
    if version == b"1.0":
        raise _refuse("Transfer-Encoding does not exist in HTTP/1.0")
    if len(codings) > 1:
        raise _refuse("Transfer-Encoding is there more than once")
    if codings[0].lower() == b"chunked":
        return
    if _CODINGS.fullmatch(codings[0]):
        raise WireError(Reason.NOT_IMPLEMENTED, "Transfer-Encoding: only chunked is supported")
    raise _refuse("Transfer-Encoding is malformed")


def _connection_options(headers: Iterable[Field]) -> set[bytes]:
    named: set[bytes] = set()
    for key, value in headers:
        if key == b"connection":
            named.update(option.strip(b" \t").lower() for option in value.split(b","))
    return named - _NOT_REMOVABLE


def _stays_here(key: bytes, dropped: set[bytes]) -> bool:
    return key in _HOP_BY_HOP or key in dropped


def _via(earlier: list[bytes], version: bytes) -> Field:
    return b"Via", b", ".join([*earlier, version + b" " + VIA_NAME])

"""What a plain HTTP request must look like to be sent on, and which fields of it and of its answer go on.

Framing after RFC 9112 section 6, field handling after RFC 9110 sections 6.5, 7.6 and 7.8. Bodies are `http_body`'s.
"""

import re
from collections.abc import Iterable

from gateway.wire.base import WireError
from gateway.wire.http_body import LENGTH, MAX_CONTENT_LENGTH
from gateway.wire.http_head import Answer, Field, Head
from health.reasons import Reason

VIA_NAME = b"vpnexit"
# Every gateway has the same name in Via: one of its own would tell websites that the exits it shows them belong
# together. Gateways behind gateways are few, so a request that went through this many goes round in a circle.
MAX_GATEWAYS = 3
WEBSOCKET = b"websocket"

_CODINGS = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*")
_HOPS = re.compile(rb"[0-9]{1,9}")
_HOP_BY_HOP = frozenset((b"connection", b"http2-settings", b"keep-alive", b"te", b"upgrade", b"proxy"))
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
# RFC 9110 section 6.5.1: framing, routing, request modifiers, authentication, control data, content handling.
_NO_TRAILERS = _NOT_REMOVABLE | frozenset(
    (
        b"age",
        b"content-range",
        b"date",
        b"expect",
        b"expires",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"location",
        b"max-forwards",
        b"pragma",
        b"range",
        b"retry-after",
        b"trailer",
        b"vary",
        b"www-authenticate",
    )
)
# What the gateway says of itself in an answer. A target's own would be taken for it, so it ends here.
_OURS = frozenset((b"x-exit-node", b"x-exit-country", b"x-request-id"))


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
    if head.method == b"TRACE" and (codings or lengths not in ([], [b"0"])):
        raise _refuse("TRACE has no body (RFC 9110 section 9.3.8)")


def check_loop(head: Head) -> None:
    """Refuse a request that comes round again (RFC 9110 section 7.6.3). Raises WireError (LOOP)."""
    members = [member.split() for value in head.values(b"via") for member in value.split(b",")]
    if sum(len(member) > 1 and member[1].lower() == VIA_NAME for member in members) >= MAX_GATEWAYS:
        raise WireError(Reason.LOOP, f"it came through {MAX_GATEWAYS} gateways before (see Via)")


def hops_left(head: Head) -> int | None:
    """How often a TRACE or OPTIONS request may still be forwarded (Max-Forwards, RFC 9110 section 7.6.2), else None.

    Raises WireError (BAD_REQUEST).
    """
    values = head.values(b"max-forwards")
    if not values or head.method not in (b"TRACE", b"OPTIONS"):
        return None
    if len(values) > 1 or not _HOPS.fullmatch(values[0]):
        raise _refuse("Max-Forwards is not one number")
    return int(values[0])


def wants_websocket(head: Head) -> bool:
    """Whether the client asks to switch to the WebSocket protocol (RFC 9110 section 7.8, RFC 6455 section 4.1).

    No other protocol is switched to. `h2c` above all: a proxy that forwards it carries requests that it never sees.
    """
    asked = {token.strip(b" \t").lower() for value in head.values(b"upgrade") for token in value.split(b",")}
    bodiless = not head.values(b"transfer-encoding") and head.values(b"content-length") in ([], [b"0"])
    named = b"upgrade" in connection_options(head.headers)
    return head.method == b"GET" and head.version == b"1.1" and bodiless and named and WEBSOCKET in asked


def agrees_to_websocket(answer: Answer) -> bool:
    """Whether a 101 answer switches to the one protocol that was asked for."""
    return [value.lower() for value in answer.values(b"upgrade")] == [WEBSOCKET]


def forward_headers(head: Head, host: bytes, *, upgrade: bool = False) -> list[Field]:
    """The fields to send on with a request, names as the client wrote them.

    `host` replaces the Host field and comes first; hop-by-hop fields, those that Connection names and every Proxy-*
    field stay here; one Via is added to those of earlier proxies. `head` must have passed `check_framing`.
    """
    dropped = connection_options(head.headers) - _NOT_REMOVABLE
    hops = hops_left(head)
    fields: list[Field] = [(b"Host", host)]
    via: list[bytes] = []
    for name, (key, value) in zip(head.names, head.headers, strict=True):
        if key == b"via":
            via.append(value)
        elif key == b"transfer-encoding":
            fields.append((name, b"chunked"))
        elif key == b"max-forwards" and hops:
            fields.append((name, b"%d" % (hops - 1)))
        elif key == b"expect" and head.version == b"1.0":
            continue  # RFC 9110 section 10.1.1; we ask as HTTP/1.1
        elif key != b"host" and not _stays_here(key, dropped) and not key.startswith(b"proxy-"):
            fields.append((name, value))
    return [*fields, _via(via, head.version), *(_switch() if upgrade else ())]


def response_headers(answer: Answer, *, upgrade: bool = False) -> list[Field]:
    """The fields of a target's answer to send on to the client, a Content-Length among them where it may stand.

    Transfer-Encoding is left to who sends the body. Proxy-Status goes on (RFC 9209), the other Proxy-* fields speak
    of a proxy that the client does not know. `answer` must have passed `answer_body`.
    """
    dropped = connection_options(answer.headers) - _NOT_REMOVABLE
    bodiless = answer.status < 200 or answer.status == 204  # RFC 9110 section 8.6
    kept: list[Field] = []
    via: list[bytes] = []
    seen_length = bodiless
    for name, (key, value) in zip(answer.names, answer.headers, strict=True):
        if key == b"via":
            via.append(value)
        elif key == b"content-length":
            kept += [] if seen_length else [(name, value)]
            seen_length = True
        elif key == b"transfer-encoding" or key in _OURS or _stays_here(key, dropped):
            continue
        elif key == b"proxy-status" or not key.startswith(b"proxy-"):
            kept.append((name, value))
    return [*kept, _via(via, answer.version), *(_switch() if upgrade else ())]


def forward_trailers(trailers: Iterable[Field]) -> list[Field]:
    """The trailer fields that may go on: none that frames, routes, authenticates or belongs to one hop."""
    return [
        (name, value)
        for name, value in trailers
        if (key := name.lower()) not in _NO_TRAILERS | _HOP_BY_HOP | _OURS and not key.startswith(b"proxy-")
    ]


def connection_options(headers: Iterable[Field]) -> set[bytes]:
    """What the Connection fields name, in lower case."""
    named: set[bytes] = set()
    for key, value in headers:
        if key == b"connection":
            named.update(option.strip(b" \t").lower() for option in value.split(b","))
    return named


def write_head(first_line: bytes, fields: Iterable[Field]) -> bytes:
    """A complete head of `fields` after `first_line`."""
    return b"".join((first_line, b"\r\n", *(b"%b: %b\r\n" % field for field in fields), b"\r\n"))


def _refuse(detail: str) -> WireError:
    return WireError(Reason.BAD_REQUEST, detail)


def _check_length(lengths: list[bytes]) -> None:
    if len(lengths) > 1:
        raise _refuse("Content-Length is there more than once")
    if not LENGTH.fullmatch(lengths[0]) or int(lengths[0]) > MAX_CONTENT_LENGTH:
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


def _stays_here(key: bytes, dropped: set[bytes]) -> bool:
    return key in _HOP_BY_HOP or key in dropped


def _switch() -> list[Field]:
    return [(b"Connection", b"Upgrade"), (b"Upgrade", WEBSOCKET)]


def _via(earlier: list[bytes], version: bytes) -> Field:
    return b"Via", b", ".join([*earlier, version + b" " + VIA_NAME])

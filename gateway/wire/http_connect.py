"""What an HTTP request asks of the proxy: where to go, and who asks.

CONNECT carries its target in authority-form (RFC 9112 section 3.2.3), any other method in absolute-form (3.2.2).
"""

import binascii
import re

from gateway.wire.base import Address, Target, WireError, bracketed, decode_text, parse_host, parse_ipv6, parse_port
from gateway.wire.http_head import Head
from health.reasons import Reason

HTTP_PORT = 80

_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]@/?#\\]*)(?::(.*))?")
_URL = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)([^#]*)(#.*)?")
# Python's decoder lets padding in the wrong place pass, not the same way in every version.
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_HOST_FIELD = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=\-]*)(:[0-9]*)?")


def connect_target(head: Head) -> Target:
    """The target of a CONNECT request.

    Raises:
        WireError: BAD_REQUEST when it is no `host:port` with a port from 1 to 65535, when Host is missing (HTTP/1.1)
            or repeated, or when the request announces a body, which CONNECT has not (RFC 9110 section 9.3.6).
    """
    _check_host_field(head)
    if head.values(b"transfer-encoding") or any(value != b"0" for value in head.values(b"content-length")):
        raise _refuse("CONNECT has no body: send neither Content-Length nor Transfer-Encoding")
    host, address, port = _split_authority(head.target.decode("ascii"))
    if port is None:
        raise _refuse("CONNECT needs host:port, for example example.org:443")
    return Target(host, parse_port(port), address)


def absolute_target(head: Head) -> tuple[Target, bytes, bytes]:
    """The target of any other request, the request target to send on, and the Host field to send with it.

    Raises:
        WireError: BAD_REQUEST when it is no http:// or ws:// URL, holds user info or a fragment, or when Host is
            missing (HTTP/1.1) or repeated; NOT_IMPLEMENTED for https:// and wss://, which go through CONNECT.
    """
    _check_host_field(head)
    match = _URL.fullmatch(head.target)
    if match is None:
        raise _refuse("this is a proxy: send the whole URL, as in GET http://example.org/ HTTP/1.1")
    scheme, authority, rest, fragment = match.groups()
    _check_scheme(scheme.lower())
    if fragment is not None:
        raise _refuse("the URL holds a fragment (#...), which is not sent to servers")
    host, address, port = _split_authority(authority.decode("ascii"))
    target = Target(host, parse_port(port) if port else HTTP_PORT, address)
    return target, _origin_form(head.method, rest), _host_field(target)


def raw_credentials(head: Head) -> bytes:
    """Proxy-Authorization as it was sent, every field of it; empty where there is none."""
    return b"\n".join(head.values(b"proxy-authorization"))


def credentials(head: Head) -> tuple[str, str] | None:
    """User name and password of Proxy-Authorization (Basic, RFC 7617), None where the field is absent.

    Raises:
        WireError: BAD_REQUEST when it is repeated or malformed, AUTH_REQUIRED for a scheme other than Basic.
    """
    values = head.values(b"proxy-authorization")
    if not values:
        return None
    if len(values) > 1:
        raise _refuse("Proxy-Authorization is there more than once")
    scheme, _, token = values[0].partition(b" ")
    token = token.strip(b" ")
    if scheme.lower() != b"basic":
        raise WireError(Reason.AUTH_REQUIRED, "Proxy-Authorization: only the Basic scheme is supported")
    if len(token) % 4 or not _BASE64.fullmatch(token):
        raise _refuse("Proxy-Authorization is not valid base64")
    user, colon, password = binascii.a2b_base64(token).partition(b":")
    if not colon:
        raise _refuse("Proxy-Authorization holds no colon between user name and password")
    return decode_text(user), decode_text(password)


def _refuse(detail: str) -> WireError:
    return WireError(Reason.BAD_REQUEST, detail)


def _check_host_field(head: Head) -> None:
    values = head.values(b"host")
    if len(values) > 1:
        raise _refuse("the Host field is there more than once")
    if not values and head.version != b"1.0":
        raise _refuse("the Host field is missing (RFC 9112 section 3.2)")
    if values and not _HOST_FIELD.fullmatch(values[0]):
        raise _refuse("the Host field is no host")


def _check_scheme(scheme: bytes) -> None:
    if scheme in (b"https", b"wss"):
        raise WireError(Reason.NOT_IMPLEMENTED, f"{scheme.decode()}:// URLs are not fetched here: use CONNECT host:443")
    if scheme not in (b"http", b"ws"):  # some WebSocket clients (aiohttp) keep their own scheme
        raise _refuse("only http:// URLs are fetched here: use CONNECT host:port for anything else")


def _split_authority(text: str) -> tuple[str, Address | None, str | None]:
    """Host, its address where it is a literal, and the port's text (None without a colon)."""
    match = _AUTHORITY.fullmatch(text)
    if match is None or "@" in text:  # what stands before an @ may be a password: it is not shown
        raise _refuse("the target is not host:port (an IPv6 address goes in brackets, user info is not accepted)")
    host, port = match.groups()
    if not host.startswith("["):
        return *parse_host(host), port
    address = parse_ipv6(host[1:-1])
    return str(address), address, port


def _origin_form(method: bytes, rest: bytes) -> bytes:
    if not rest and method == b"OPTIONS":
        return b"*"  # RFC 9112 section 3.2.4
    return rest if rest.startswith(b"/") else b"/" + rest


def _host_field(target: Target) -> bytes:
    return (bracketed(target) if target.port == HTTP_PORT else target.authority).encode("ascii")

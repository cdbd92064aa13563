"""Where somebody's proxy is and how it is spoken to: `socks5://user@host:1080`, `http://[2001:db8::1]:3128`.

Never holds a password: these addresses stand in Redis, in configuration files and in logs.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator

MAX_USER = 255  # bytes, RFC 1929 section 2
MAX_PORT = 65535
MAX_NAME = 253  # RFC 1035 section 3.1

_URL = re.compile(
    r"(?P<scheme>[a-z0-9]+)://(?:(?P<user>[^@/?#]*)@)?(?P<host>\[[^\]]*\]|[^:@/?#]*):(?P<port>[0-9]{1,5})"
)
_USER = re.compile(r"(?:[A-Za-z0-9_.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"[0-9.]+")
_EXAMPLE = "write socks5://user@host:1080, socks5://host:1080 or http://user@host:3128"


class Scheme(StrEnum):
    """How an upstream is spoken to: SOCKS5 (RFC 1928), or HTTP CONNECT (RFC 9110 section 9.3.6) without TLS."""

    SOCKS5 = "socks5"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Upstream:
    """One proxy. `user` is None where it asks nobody; `host` a name or an address without brackets."""

    scheme: Scheme
    user: str | None
    host: str
    port: int
    authority: str
    """User, host and port as they were written: names the file that holds the password."""

    @property
    def place(self) -> str:
        """The URL without the user."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(url: str) -> Upstream:
    """Read `scheme://[user@]host:port`; other than letters, digits and `-._~` in the user are percent-encoded.

    Raises:
        ValueError: saying what is wrong. The text never holds the URL, which may carry a password by mistake.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(f"this is no address of an upstream proxy: {_EXAMPLE}")
    scheme, user, host, port = match.groups()
    if scheme not in tuple(Scheme):
        raise ValueError(f"an upstream speaks socks5 or http, not {scheme}: {_EXAMPLE}")
    if not 0 < int(port) <= MAX_PORT:
        raise ValueError(f"the upstream's port is not from 1 to {MAX_PORT}")
    return Upstream(Scheme(scheme), _user(user, scheme), _host(host), int(port), url.partition("://")[2])


def _check(url: str) -> str:
    parse(url)
    return url


UpstreamUrl = Annotated[str, AfterValidator(_check)]


def _user(text: str | None, scheme: str) -> str | None:
    if text is None:
        return None
    if ":" in text:
        raise ValueError("the password does not belong into the upstream's address: put it into the file named for it")
    user = _decoded(text)
    if not user or len(user.encode()) > MAX_USER or not user.isprintable() or (scheme == Scheme.HTTP and ":" in user):
        raise ValueError(f"the upstream's user is no name of 1 to {MAX_USER} bytes: percent-encode what is special")
    return user


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict") if _USER.fullmatch(text) else ""
    except UnicodeDecodeError:
        return ""


def _host(text: str) -> str:
    try:
        if text.startswith("["):
            return str(IPv6Address(text[1:-1].replace("%", "?")))  # no zone: it names an interface of one machine
        if _NUMERIC.fullmatch(text):
            return str(IPv4Address(text))
    except AddressValueError:
        raise ValueError(f"the upstream's host is a malformed address: {_EXAMPLE}") from None
    if len(text) > MAX_NAME or not _NAME.fullmatch(text):
        raise ValueError(f"the upstream's host is neither a name nor an address: {_EXAMPLE}")
    return text.lower()

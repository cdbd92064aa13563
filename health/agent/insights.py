"""Who tells an exit how it looks from outside, and what the answer says. Pure.

The answer is that of NordVPN's `/v1/helpers/ips/insights` (`ip`, `country_code`), as admission reads it.
"""

import ipaddress
import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from health.agent.dns import valid_name

_COUNTRY = re.compile(r"[a-z]{2}")


class UnknownError(Exception):
    """It could not be found out; the text says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """Who is asked: a URL in its parts."""

    host: str
    port: int
    path: str
    tls: bool


def source(url: str) -> Source:
    """The parts of an http or https URL. Raises ValueError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not (is_number(host) or valid_name(host)) or parts.username:
        raise ValueError("an http or https URL with a host name or an IPv4 address expected")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError("an http or https URL with a plain path expected")
    return Source(host, parts.port or (443 if tls else 80), path, tls)


def parse(answer: bytes) -> tuple[str, str]:
    """Address and country of a whole HTTP answer. Raises UnknownError."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not re.match(rb"HTTP/1\.[01] 200\b", head):
        raise UnknownError("its answer is no 200")
    try:
        told = json.loads(body)
        address, country = str(ipaddress.ip_address(told["ip"])), str(told["country_code"]).lower()
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnknownError("its answer is not understood") from None
    if not _COUNTRY.fullmatch(country):
        raise UnknownError("its answer is not understood")
    return address, country


def is_number(host: str) -> bool:
    """Whether `host` is an IPv4 address."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True

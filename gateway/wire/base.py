"""What all protocols share: the error that says why, the target, and what counts as a host."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from health.reasons import Reason

Address = IPv4Address | IPv6Address

MAX_NAME = 253  # RFC 1035 section 3.1, in text without the final dot
MAX_HOST_TEXT = 255  # what a SOCKS request can carry (RFC 1928 section 5)
MAX_PORT = 65535

_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_ALPHABET = re.compile(r"[A-Za-z0-9_.-]+")
_IPV6_ALPHABET = re.compile(r"[0-9A-Fa-f:.]+")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


class WireError(Exception):
    """A client's bytes were refused.

    Args:
        reason: what the metrics, the log and the reply are made from.
        detail: in plain words, what is wrong and what to do. Holds no secret; safe to show to the client.
        reply: what to send before closing; empty: what the protocol says to `reason`.
        silent: close without a word, since what the client speaks is not what it began with.
        retry_after: seconds after which the same may be tried again; 0 where nobody knows.
    """

    def __init__(
        self, reason: Reason, detail: str, *, reply: bytes = b"", retry_after: int = 0, silent: bool = False
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.reply = reply
        self.retry_after = retry_after
        self.silent = silent


@dataclass(frozen=True, slots=True)
class Target:
    """Where a client wants to go.

    `host` is a lower-case ASCII name without a final dot, or the canonical text of `address`; `address` is set for
    literals only; `port` is 1–65535.
    """

    host: str
    port: int
    address: Address | None = None

    @property
    def authority(self) -> str:
        """`host:port`, an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
        return f"{bracketed(self)}:{self.port}"


def bracketed(target: Target) -> str:
    """The host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{target.host}]" if isinstance(target.address, IPv6Address) else target.host


def parse_host(text: str) -> tuple[str, Address | None]:
    """Return the canonical host and, for a literal, its address.

    A name is letters, digits, hyphens and underscores in labels of 1–63, one final dot is dropped. Anything whose last
    label is a number must be a plain dotted quad: `127.1`, `0177.0.0.1`, `0x7f000001` and `2130706433` are refused,
    since resolvers read them as addresses that were never checked.

    Raises:
        WireError: BAD_REQUEST for what is no host; NAME_NOT_FOUND for a name too long to exist in the DNS.
    """
    if not text:
        raise WireError(Reason.BAD_REQUEST, "the target host is empty")
    if len(text) > MAX_HOST_TEXT:
        raise WireError(Reason.BAD_REQUEST, f"the target host is longer than {MAX_HOST_TEXT} characters")
    if ":" in text:
        return _parse_ipv6(text)
    if not _ALPHABET.fullmatch(text):
        raise WireError(Reason.BAD_REQUEST, f"the target host {shown(text)} holds characters no host name may have")
    name = text.removesuffix(".").lower()
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return _parse_ipv4(name)
    if _NAME.fullmatch(name) and len(name) <= MAX_NAME:
        return name, None
    return _refuse_name(name)


def parse_ipv6(text: str) -> IPv6Address:
    """The address written as `text`, without brackets or zone. Raises WireError (BAD_REQUEST)."""
    if _IPV6_ALPHABET.fullmatch(text):
        try:
            return IPv6Address(text)
        except AddressValueError:
            pass
    raise WireError(Reason.BAD_REQUEST, f"{shown(text)} is no IPv6 address")


def parse_port(text: str) -> int:
    """A port number 1–65535, in decimal digits without leading zeros. Raises WireError (BAD_REQUEST)."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and text[0] != "0":
        port = int(text)
        if port <= MAX_PORT:
            return port
    raise WireError(Reason.BAD_REQUEST, f"the port {shown(text)} is no number from 1 to {MAX_PORT}")


def decode_text(data: bytes) -> str:
    """User names and passwords: UTF-8 (RFC 7617 section 2.1), else each byte as it is."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def shown(text: str) -> str:
    """`text` for an error message: quoted, control characters and non-ASCII escaped, at most 64 characters of it."""
    return ascii(text if len(text) <= 64 else text[:64] + "...")


def _parse_ipv6(text: str) -> tuple[str, Address]:
    address = parse_ipv6(text)
    return str(address), address


def _parse_ipv4(text: str) -> tuple[str, Address]:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise WireError(
            Reason.BAD_REQUEST, f"{shown(text)} is no host: write an IPv4 address as four decimal numbers"
        ) from None
    return str(address), address


def _refuse_name(name: str) -> tuple[str, Address | None]:
    labels = name.split(".")
    if all(label and label[0] != "-" and label[-1] != "-" for label in labels):
        raise WireError(Reason.NAME_NOT_FOUND, "the target's name is longer than a name in the DNS can be")
    raise WireError(
        Reason.BAD_REQUEST, f"the target host {shown(name)} has an empty label or a hyphen at a label's end"
    )

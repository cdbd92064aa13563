"""Where clients may go. Judges the very address that is then dialled, after any look-up.

The ranges are those of the IANA special-purpose address registries (RFC 6890 and its successors). `is_global` of the
standard library is not enough: it is true for NAT64 forms of 127.0.0.1, for 6to4 and for multicast.
"""

from bisect import bisect_right
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import NamedTuple

from gateway.wire.base import MAX_PORT, Address, WireError
from health.reasons import Reason

Network = IPv4Network | IPv6Network

SMTP = 25

_IPV4 = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "protocol assignments",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved or broadcast",
}
# Everything outside 2000::/3 is refused; the gaps between the entries say so themselves.
_IPV6 = {
    "::/8": "reserved",
    "100::/8": "discard-only or reserved",
    "200::/7": "reserved",
    "400::/6": "reserved",
    "800::/5": "reserved",
    "1000::/4": "reserved",
    "2001::/23": "protocol assignments or benchmarking",
    "2001:db8::/32": "documentation",
    "3fff::/20": "documentation",
    "4000::/2": "reserved",
    "8000::/2": "reserved",
    "c000::/3": "reserved",
    "e000::/4": "reserved",
    "f000::/5": "reserved",
    "f800::/6": "reserved",
    "fc00::/7": "unique local",
    "fe00::/9": "reserved",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
# Forms that carry an IPv4 address inside. A wide IPv6 network in `allow` must not open them by accident.
_EMBEDDING = {
    "::/96": "unspecified, loopback or IPv4-compatible",
    "::ffff:0:0/96": "IPv4-mapped",
    "::ffff:0:0:0/96": "IPv4-translated",
    "64:ff9b::/96": "NAT64",
    "64:ff9b:1::/48": "NAT64",
    "2001::/32": "Teredo",
    "2002::/16": "6to4",
}


class _Range(NamedTuple):
    first: int
    last: int
    what: str
    network: Network
    embedding: bool


def _range(network: Network, what: str, embedding: bool = False) -> _Range:
    return _Range(int(network.network_address), int(network.broadcast_address), what, network, embedding)


class _Table:
    """Ranges that do not overlap, searched by bisection."""

    def __init__(self, ranges: list[_Range]) -> None:
        self._ranges = sorted(ranges)
        self._firsts = [entry.first for entry in self._ranges]

    def find(self, address: int) -> _Range | None:
        at = bisect_right(self._firsts, address) - 1
        return self._ranges[at] if at >= 0 and address <= self._ranges[at].last else None


_TABLE_V4 = _Table([_range(IPv4Network(text), what) for text, what in _IPV4.items()])
_TABLE_V6 = _Table([_range(IPv6Network(text), what) for text, what in _IPV6.items()])
_TABLE_EMBEDDING = _Table([_range(IPv6Network(text), what, True) for text, what in _EMBEDDING.items()])
# A zone names an interface of this machine; no network in `allow` lies within the empty form of it.
_ZONED = _range(IPv6Network("::/128"), "with a zone", True)


def check(address: Address, port: int, allow: Sequence[Network] = ()) -> None:
    """Refuse a target that must not be reached. `allow` are the networks the operator opened.

    A form that carries an IPv4 address (IPv4-mapped, NAT64, 6to4, Teredo) is judged by its form, and opened only by a
    network that lies within that form's own range.

    Raises:
        WireError: TARGET_FORBIDDEN, saying which kind of address or port it is.
    """
    if not 0 < port <= MAX_PORT:
        raise _refuse(f"port {port} is not from 1 to {MAX_PORT}")
    found = _find(address)
    if found is not None and not _allowed(address, allow, found):
        raise _refuse(f"{address} is not a public address ({found.what})")
    if port == SMTP and not _allowed(address, allow, found):
        raise _refuse("port 25 (mail) is closed")


def _refuse(detail: str) -> WireError:
    return WireError(Reason.TARGET_FORBIDDEN, detail)


def _find(address: Address) -> _Range | None:
    if isinstance(address, IPv4Address):
        return _TABLE_V4.find(int(address))
    if address.scope_id is not None:
        return _ZONED
    return _TABLE_EMBEDDING.find(int(address)) or _TABLE_V6.find(int(address))


def _allowed(address: Address, allow: Sequence[Network], found: _Range | None) -> bool:
    for network in allow:
        if address in network and (found is None or not found.embedding or _within(network, found.network)):
            return True
    return False


def _within(network: Network, form: Network) -> bool:
    if isinstance(network, IPv6Network) and isinstance(form, IPv6Network):
        return network.subnet_of(form)
    return False

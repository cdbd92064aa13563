"""How long an address must wait before its next log-in is looked at: pure, the time comes in.

The first failures are free, then each doubles the wait; time alone forgives. An address that has logged in before goes
on being served with the same credentials, so that a neighbour behind the same address cannot lock it out.
"""

import hashlib
import ipaddress
import secrets
from collections import OrderedDict
from functools import lru_cache

FREE = 5
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0
FORGIVEN_S = 60.0  # per failure
ADDRESSES_KEPT = 10_000
_MOST = FREE + 7  # failures counted: from here on the wait is the longest


class Slowdown:
    """Failed log-ins per client address (IPv6: per /64), of the addresses that failed last. Times are monotonic."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._at_home: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._key = secrets.token_bytes(32)
        self._last = ("", "")

    def __len__(self) -> int:
        """Addresses that failed lately."""
        return len(self._failures)

    def wait(self, address: str, credentials: str, now: float) -> float:
        """Seconds until `credentials` from `address` may be tried; 0 when they may now."""
        if not self._failures:
            return 0.0
        count, at = self._failures.get(block_of(address), (0.0, 0.0))
        if count <= FREE or self._home(address, credentials) in self._at_home:
            return 0.0
        return max(0.0, at + min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (count - FREE - 1)) - now)

    def failed(self, address: str, now: float) -> None:
        """A log-in failed."""
        block = block_of(address)
        count, at = self._failures.pop(block, (0.0, now))
        self._failures[block] = (min(max(0.0, count - (now - at) / FORGIVEN_S) + 1, _MOST), now)
        if len(self._failures) > ADDRESSES_KEPT:
            self._failures.popitem(last=False)

    def succeeded(self, address: str, credentials: str) -> None:
        """A log-in succeeded: it is at home there from now on."""
        if self._last == (address, credentials):
            return
        self._last = (address, credentials)
        home = self._home(address, credentials)
        if home not in self._at_home:
            self._at_home[home] = None
            if len(self._at_home) > ADDRESSES_KEPT:
                self._at_home.popitem(last=False)

    def _home(self, address: str, credentials: str) -> tuple[str, bytes]:
        # Of the credentials only a keyed digest is kept.
        text = credentials.encode("utf-8", "surrogateescape")
        return block_of(address), hashlib.blake2b(text, key=self._key, digest_size=16).digest()


@lru_cache(4096)
def block_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 client can have to itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False).network_address)

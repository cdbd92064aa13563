"""How long an address must wait before its next log-in is looked at: pure, the time comes in.

An address that has logged in before goes on being served with the same credentials, so that a neighbour behind the
same address cannot lock it out.
"""

import hashlib
import ipaddress
import secrets
from collections import OrderedDict
from functools import lru_cache

from health import failures
from health.failures import FREE, MAX_WAIT_S

__all__ = ["FREE", "MAX_WAIT_S", "Slowdown", "block_of"]


class Slowdown:
    """Failed log-ins per client address (IPv6: per /64), of the addresses that failed last. Times are monotonic."""

    def __init__(self) -> None:
        self._failures = failures.Failures()
        self._at_home: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()
        self._key = secrets.token_bytes(32)
        self._last = ("", "")

    def __len__(self) -> int:
        """Addresses that failed lately."""
        return len(self._failures)

    def wait(self, address: str, credentials: str, now: float) -> float:
        """Seconds until `credentials` from `address` may be tried; 0 when they may now."""
        wait = self._failures.wait(block_of(address), now) if self._failures else 0.0
        return 0.0 if wait and self._home(address, credentials) in self._at_home else wait

    def failed(self, address: str, now: float) -> None:
        """A log-in failed."""
        self._failures.add(block_of(address), now)

    def succeeded(self, address: str, credentials: str) -> None:
        """A log-in succeeded: it is at home there from now on."""
        if self._last == (address, credentials):
            return
        self._last = (address, credentials)
        home = self._home(address, credentials)
        if home not in self._at_home:
            self._at_home[home] = None
            if len(self._at_home) > failures.ADDRESSES_KEPT:
                self._at_home.popitem(last=False)

    def _home(self, address: str, credentials: str) -> tuple[bytes, bytes]:
        # Of the credentials only a keyed digest is kept.
        text = credentials.encode("utf-8", "surrogateescape")
        return block_of(address), hashlib.blake2b(text, key=self._key, digest_size=16).digest()


@lru_cache(4096)
def block_of(address: str) -> bytes:
    """What counts as one address (`health.failures.block_of`); of text that is none, its first 64 bytes."""
    try:
        return failures.block_of(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return address.encode("utf-8", "replace")[:64]

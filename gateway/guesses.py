"""How long an address must wait before its next log-in is tried: pure, the time comes in.

The first failures are free, then each doubles the wait. Time alone forgives: did a success forgive, whoever has one
account could guess at the others without end. Nobody who is already verified is asked here.
"""

from collections import OrderedDict
from dataclasses import dataclass

from gateway.wire.base import Address

FREE = 5
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0
FORGIVEN_S = 60.0  # per failure
ADDRESSES_KEPT = 10_000
_MOST = FREE + 7  # failures counted: from here on the wait is the longest


@dataclass(slots=True)
class _Failures:
    count: float
    at: float


class Guesses:
    """Failed log-ins per client address (IPv6: per /64), of the addresses that failed last."""

    def __init__(self) -> None:
        self._failures: OrderedDict[bytes, _Failures] = OrderedDict()

    def __len__(self) -> int:
        """Addresses that failed lately."""
        return len(self._failures)

    def wait(self, source: Address, now: float) -> float:
        """Seconds until `source` may try again; 0 when it may now."""
        failures = self._failures.get(block_of(source))
        if failures is None or failures.count <= FREE:
            return 0.0
        wait = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (failures.count - FREE - 1))
        return max(0.0, failures.at + wait - now)

    def begin(self, source: Address, now: float) -> None:
        """A guess is tried: it counts as failed until `succeeded`, so that many at once gain nothing."""
        block = block_of(source)
        before = self._failures.pop(block, None)
        count = max(0.0, before.count - (now - before.at) / FORGIVEN_S) if before else 0.0
        self._failures[block] = _Failures(min(count + 1, _MOST), now)
        if len(self._failures) > ADDRESSES_KEPT:
            self._failures.popitem(last=False)

    def succeeded(self, source: Address) -> None:
        """Take back the one failure that `begin` counted."""
        block = block_of(source)
        failures = self._failures.get(block)
        if failures is None:
            return
        failures.count -= 1
        if failures.count <= 0:
            del self._failures[block]


def block_of(source: Address) -> bytes:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 client can have to itself."""
    if source.version == 4:
        return source.packed
    return source.ipv4_mapped.packed if source.ipv4_mapped else source.packed[:8]

"""How long an address must wait after failed log-ins: pure, the time comes in. For the gateway and the API alike.

The first failures are free, then each doubles the wait; time alone forgives. Did a success forgive, whoever has one
account could guess at the others without end.
"""

from collections import OrderedDict
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

FREE = 5
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0
FORGIVEN_S = 60.0  # per failure
ADDRESSES_KEPT = 10_000
MOST = FREE + 7  # failures counted: from here on the wait is the longest


class Failures:
    """Failed log-ins per block of addresses (`block_of`), of those that failed last. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failed: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Blocks that failed lately."""
        return len(self._failed)

    def wait(self, block: bytes, now: float) -> float:
        """Seconds until `block` may try again; 0 when it may now."""
        count, at = self._failed.get(block, (0.0, 0.0))
        if count <= FREE:
            return 0.0
        return max(0.0, at + min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (count - FREE - 1)) - now)

    def add(self, block: bytes, now: float) -> float:
        """One more failure; how many that makes, less what time forgave."""
        count, at = self._failed.pop(block, (0.0, now))
        count = max(0.0, count - (now - at) / FORGIVEN_S) + 1
        self.put(block, count, now)
        return count

    def take_back(self, block: bytes) -> None:
        """One failure less."""
        count, at = self._failed.get(block, (0.0, 0.0))
        if count > 1:
            self._failed[block] = (count - 1, at)
        else:
            self._failed.pop(block, None)

    def put(self, block: bytes, count: float, at: float) -> None:
        """So many failures, the last one at `at`."""
        self._failed[block] = (min(count, MOST), at)
        if len(self._failed) > ADDRESSES_KEPT:
            self._failed.popitem(last=False)

    def unforgiven(self, now: float) -> Iterator[tuple[bytes, float, float]]:
        """Blocks, their failures, and when the last one was."""
        for block, (count, at) in self._failed.items():
            if count * FORGIVEN_S > now - at:
                yield block, count, at


def block_of(source: IPv4Address | IPv6Address) -> bytes:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 client can have to itself."""
    if isinstance(source, IPv4Address):
        return source.packed
    return source.ipv4_mapped.packed if source.ipv4_mapped else source.packed[:8]

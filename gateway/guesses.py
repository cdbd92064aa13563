"""How long an address must wait before its next log-in is tried: pure, the time comes in.

The first failures are free, then each doubles the wait. Time alone forgives: did a success forgive, whoever has one
account could guess at the others without end. Nobody who is already verified is asked here.

All workers of a gateway count together: each tells the others, by way of the supervisor, a word for every failure.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.wire.base import Address

FREE = 5
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0
FORGIVEN_S = 60.0  # per failure
ADDRESSES_KEPT = 10_000
_MOST = FREE + 7  # failures counted: from here on the wait is the longest


Word = tuple[bytes, int]  # what counts as one address, and how much more (or less) it failed
Entry = tuple[str, float, float]  # an address in hexadecimal digits, its failures, seconds since the last


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

    def begin(self, source: Address, now: float) -> bool:
        """A guess is tried: it counts as failed until `succeeded`, so that many at once gain nothing.

        True when it should count so elsewhere, too. Before the free ones are used up it should not: a browser that
        opens connections to every worker at once is no guesser.
        """
        return self._failed(block_of(source), now) > FREE

    def _failed(self, block: bytes, now: float) -> float:
        before = self._failures.pop(block, None)
        count = max(0.0, before.count - (now - before.at) / FORGIVEN_S) if before else 0.0
        self._failures[block] = _Failures(min(count + 1, _MOST), now)
        if len(self._failures) > ADDRESSES_KEPT:
            self._failures.popitem(last=False)
        return count + 1

    def succeeded(self, source: Address) -> None:
        """Take back the one failure that `begin` counted."""
        self._take_back(block_of(source))

    def hear(self, word: Word, now: float) -> None:
        """Somewhere else a guess failed, or one that was thought to have failed did not."""
        block, change = word
        if change > 0:
            self._failed(block, now)
        else:
            self._take_back(block)

    def dump(self, now: float) -> list[Entry]:
        """What is not forgiven yet, for a table that starts later."""
        return [
            (block.hex(), failures.count, round(now - failures.at, 3))
            for block, failures in self._failures.items()
            if failures.count * FORGIVEN_S > now - failures.at
        ]

    def load(self, entries: Sequence[Entry], now: float) -> None:
        """Take what `dump` gave. Raises ValueError."""
        for block, left, age in entries[-ADDRESSES_KEPT:]:
            self._failures[bytes.fromhex(block)] = _Failures(min(float(left), _MOST), now - float(age))

    def _take_back(self, block: bytes) -> None:
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


def write_word(word: Word) -> list[str | int]:
    """As JSON has it."""
    block, change = word
    return [block.hex(), change]


def read_word(said: object) -> Word:
    """What `write_word` wrote. Raises ValueError."""
    match said:
        case [str(block), 1 | -1 as change] if len(block) in (8, 16):
            return bytes.fromhex(block), change
    raise ValueError("no word about a guess")

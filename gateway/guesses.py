"""Guesses at passwords, and who must wait before the next one: pure, the time comes in.

Nobody who is already verified is asked here. All workers of a gateway count together: each tells the others, by way of
the supervisor, a word for every failure.
"""

from collections.abc import Sequence

from gateway.wire.base import Address
from health import failures
from health.failures import FIRST_WAIT_S, FORGIVEN_S, FREE, MAX_WAIT_S, block_of

__all__ = ["FIRST_WAIT_S", "FORGIVEN_S", "FREE", "MAX_WAIT_S", "Entry", "Guesses", "Word", "block_of"]

Word = tuple[bytes, int]  # what counts as one address, and how much more (or less) it failed
Entry = tuple[str, float, float]  # an address in hexadecimal digits, its failures, seconds since the last


class Guesses:
    """Failed log-ins per client address (IPv6: per /64), of the addresses that failed last."""

    def __init__(self) -> None:
        self._failures = failures.Failures()

    def __len__(self) -> int:
        """Addresses that failed lately."""
        return len(self._failures)

    def wait(self, source: Address, now: float) -> float:
        """Seconds until `source` may try again; 0 when it may now."""
        return self._failures.wait(block_of(source), now)

    def begin(self, source: Address, now: float) -> bool:
        """A guess is tried: it counts as failed until `succeeded`, so that many at once gain nothing.

        True when it should count so elsewhere, too. Before the free ones are used up it should not: a browser that
        opens connections to every worker at once is no guesser.
        """
        return self._failures.add(block_of(source), now) > FREE

    def succeeded(self, source: Address) -> None:
        """Take back the one failure that `begin` counted."""
        self._failures.take_back(block_of(source))

    def hear(self, word: Word, now: float) -> None:
        """Somewhere else a guess failed, or one that was thought to have failed did not."""
        block, change = word
        if change > 0:
            self._failures.add(block, now)
        else:
            self._failures.take_back(block)

    def dump(self, now: float) -> list[Entry]:
        """What is not forgiven yet, for a table that starts later."""
        return [(block.hex(), count, round(now - at, 3)) for block, count, at in self._failures.unforgiven(now)]

    def load(self, entries: Sequence[Entry], now: float) -> None:
        """Take what `dump` gave. Raises ValueError."""
        for block, left, age in entries[-failures.ADDRESSES_KEPT :]:
            self._failures.put(bytes.fromhex(block), float(left), now - float(age))


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

"""A token bucket: how many bytes may pass now, and when it is worth asking again. Pure, the time comes in.

One bucket is shared by all connections of a user in a worker, one per direction.
"""

BURST_S = 0.25
WORTH_S = 0.02


class Bucket:
    """Lets `rate` bytes per second pass, and after a pause at most `BURST_S` seconds' worth at once."""

    __slots__ = ("_at", "_depth", "_tokens", "_worth", "dry", "passed", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self._take_rate(rate)
        self.passed = 0  # bytes, ever
        self.dry = False  # somebody wanted to pass and could not; whoever asks resets it
        self._tokens = self._depth
        self._at = now

    def take(self, wanted: int, now: float) -> int:
        """How many of `wanted` bytes may pass now; they are spent. `give_back` what was not used.

        Nothing rather than a trifle: less than `delay` waits for is not worth a system call.
        """
        self._fill(now)
        taken = min(wanted, int(self._tokens))
        if taken < min(wanted, self._worth):
            self.dry = True
            return 0
        self._tokens -= taken
        self.passed += taken
        return taken

    def give_back(self, unused: int) -> None:
        """Return tokens that were taken for bytes that did not come."""
        self._tokens += unused
        self.passed -= unused

    def delay(self, now: float) -> float:
        """Seconds to wait before trying again: 0, or at least a millisecond, for 20 ms worth of bytes (or one)."""
        self._fill(now)
        missing = self._worth - self._tokens
        if missing <= 0:
            return 0.0
        self.dry = True
        return max(missing / self.rate, 0.001)

    def set_rate(self, rate: float, now: float) -> None:
        """Go on at `rate` (above 0) from now."""
        self._fill(now)
        self._take_rate(rate)
        self._tokens = min(self._tokens, self._depth)

    def _take_rate(self, rate: float) -> None:
        self.rate = rate
        self._depth = max(rate * BURST_S, 1.0)
        self._worth = max(int(rate * WORTH_S), 1)

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._tokens + (now - self._at) * self.rate, self._depth)
            self._at = now

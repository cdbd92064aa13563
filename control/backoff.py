"""When a slot may be tried again: after 100 ms, doubling to 60 s, a little less by chance. Pure."""

import random

FIRST_S = 0.1
LONGEST_S = 60.0
RESET_AFTER_S = 10.0
JITTER = 0.25
"""By which part a delay is shortened at most: slots that failed together are not tried together for ever."""


class Backoff:
    """Failures in a row, per slot. Times are monotonic seconds; `rng` draws the jitter."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads tries, keeps no secret
        self._failures: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self._unplaced: dict[str, str] = {}
        self.not_before: dict[str, float] = {}

    def failed(self, slot: str, now: float, reason: str, served: float = 0.0) -> float:
        """Record a failure; a node that had served for 10 s starts the count anew. Returns the delay."""
        count = 1 if served >= RESET_AFTER_S else self._failures.get(slot, 0) + 1
        self._failures[slot] = min(count, 32)
        longest = min(LONGEST_S, FIRST_S * 2.0 ** min(count - 1, 16))
        if reason:
            self._reasons[slot] = reason
        return self.wait(slot, now, longest * (1 - JITTER * self._rng.random()))

    def wait(self, slot: str, now: float, delay: float) -> float:
        """Nothing failed, but the slot has to wait `delay` seconds for something. Returns the delay."""
        self.not_before[slot] = now + delay
        return delay

    def unplaced(self, country: str, reason: str) -> None:
        """Why no node can be placed in `country`, whatever the slot; empty where one was."""
        self._unplaced[country] = reason

    def succeeded(self, slot: str) -> None:
        """A node of the slot serves: its last failure is no longer news. The count stays until it served for 10 s."""
        self._reasons.pop(slot, None)

    def fulfilled(self, country: str) -> None:
        """Nothing is missing in `country` (any more): why something was is no longer news."""
        self._unplaced.pop(country, None)
        for slot in [slot for slot in self._reasons if slot.rpartition("-")[0] == country]:
            del self._reasons[slot]

    def reason(self, country: str) -> str:
        """Why no node is placed in `country`, or why a slot failed last; empty where none did since its success."""
        if self._unplaced.get(country):
            return self._unplaced[country]
        found = [reason for slot, reason in self._reasons.items() if slot.rpartition("-")[0] == country]
        return found[-1] if found else ""

"""When a slot may be tried again: at once after the first failure, then 100 ms, doubling to 60 s. Pure."""

FIRST_S = 0.1
LONGEST_S = 60.0
RESET_AFTER_S = 10.0


class Backoff:
    """Failures in a row, per slot. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self.not_before: dict[str, float] = {}

    def failed(self, slot: str, now: float, reason: str, served: float = 0.0) -> float:
        """Record a failure; a node that had served for 10 s starts the count anew. Returns the delay."""
        count = 1 if served >= RESET_AFTER_S else self._failures.get(slot, 0) + 1
        self._failures[slot] = min(count, 32)
        delay = 0.0 if count == 1 else min(LONGEST_S, FIRST_S * 2.0 ** min(count - 2, 16))
        self.not_before[slot] = now + delay
        self._reasons[slot] = reason
        return delay

    def succeeded(self, slot: str) -> None:
        """A node of the slot serves: its last failure is no longer news. The count stays until it served for 10 s."""
        self._reasons.pop(slot, None)

    def reason(self, country: str) -> str:
        """Why a slot of `country` failed last; empty where none did since its last success."""
        found = [reason for slot, reason in self._reasons.items() if slot.rpartition("-")[0] == country]
        return found[-1] if found else ""

"""Many deadlines of one length: the oldest entry is always the next to expire, so one timer does for all.

Adding and discarding cost no more than a dictionary's, which is why handshakes and dials do not have timers of their
own. An entry expires up to a tenth of the length late.
"""

import asyncio
from typing import Protocol


class Expiring(Protocol):
    """Something with a deadline."""

    def expired(self) -> None: ...


class Deadlines:
    """Entries that expire `length` seconds after they were added."""

    def __init__(self, loop: asyncio.AbstractEventLoop, length: float) -> None:
        self._loop = loop
        self._length = length
        self._entries: dict[Expiring, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Expiring) -> None:
        """Start the clock for `entry`."""
        self._entries[entry] = self._loop.time() + self._length
        if self._timer is None:
            self._timer = self._loop.call_later(self._length, self._look)

    def discard(self, entry: Expiring) -> None:
        """It is done. Unknown entries are ignored."""
        self._entries.pop(entry, None)

    def close(self) -> None:
        """Forget all entries."""
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._loop.time()
        left = self._length
        try:
            while self._entries:
                entry, at = next(iter(self._entries.items()))
                left = at - now
                if left > 0:
                    break
                del self._entries[entry]
                entry.expired()
        finally:  # the others' deadlines hold whatever became of this one
            more = bool(self._entries)
            self._timer = self._loop.call_later(max(left, self._length / 10), self._look) if more else None

"""Is the tunnel up? The state machine behind the active probe: pure, time and chance come in.

States are the tunnel's (starting, up, down); a new generation begins with every `up`. A question is a round of several
witnesses (`panel`), asked every 2 s (with jitter), every 0.5 s while in doubt, and one that waits for its answer longer
than that is doubt already. After three failures in a row the tunnel is down: at most 2.2 + 3 × 0.5 + 0.5 s after it
went black, since questions overlap.
"""

from collections.abc import Callable
from dataclasses import dataclass

STARTING, UP, DOWN = "starting", "up", "down"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds and counts. `rise_start` is the rise at start-up, `jitter` a share of the interval."""

    interval: float = 2.0
    doubt: float = 0.5
    timeout: float = 1.0
    jitter: float = 0.1
    fall: int = 3
    rise: int = 2
    rise_start: int = 1


class Probe:
    """Feed it with what happened, ask it what to do: `poll` says whether to send a question now, `due` when to poll
    again. `chance` returns a number in [0, 1)."""

    def __init__(self, now: float, chance: Callable[[], float], timing: Timing | None = None) -> None:
        self.state = STARTING
        self.generation = 0
        self.rtt: float | None = None
        self._timing = timing or Timing()
        self._chance = chance
        self._linked = False
        self._waiting: dict[int, float] = {}
        self._number = 0
        self._failures = 0
        self._successes = 0
        self._sent = now
        self._next = now

    def link(self, up: bool, now: float) -> None:
        """The VPN program says it is connected, or not. A tunnel that it gave up is down at once."""
        if up == self._linked:
            return
        self._linked = up
        self._waiting.clear()
        self._failures = self._successes = 0
        self._next = now
        if not up and self.state == UP:
            self.state = DOWN

    def due(self) -> float | None:
        """When `poll` has something to do next; None while there is no link to probe."""
        if not self._linked:
            return None
        oldest = min(self._waiting.values(), default=None)
        return self._next_send() if oldest is None else min(self._next_send(), oldest + self._timing.timeout)

    def poll(self, now: float) -> int | None:
        """Give up on questions that waited too long; the number (0-65535) of the question to send now, or None."""
        if not self._linked:
            return None
        for number in [n for n, sent in self._waiting.items() if now >= sent + self._timing.timeout]:
            self.failed(number)
        if now < self._next_send():
            return None
        self._number = (self._number + 1) % 65536
        self._waiting[self._number] = now
        self._sent = now
        spread = 1 + self._timing.jitter * (2 * self._chance() - 1)
        self._next = now + self._timing.interval * spread
        return self._number

    def answered(self, number: int, now: float) -> None:
        """Question `number` was answered. Answers nobody waits for are ignored."""
        sent = self._waiting.pop(number, None)
        if sent is None:
            return
        if now >= sent + self._timing.timeout:
            self._lost()
            return
        self.rtt = now - sent
        self._failures = 0
        self._successes += 1
        needed = self._timing.rise_start if self.state == STARTING else self._timing.rise
        if self.state != UP and self._successes >= needed:
            self.state = UP
            self.generation += 1

    def failed(self, number: int) -> None:
        """Question `number` could not be sent, or waited too long."""
        if self._waiting.pop(number, None) is not None:
            self._lost()

    def _lost(self) -> None:
        self._successes = 0
        self._failures += 1
        if self.state == UP and self._failures >= self._timing.fall:
            self.state = DOWN

    def _next_send(self) -> float:
        if self.state != UP or self._failures or self._waiting:
            return min(self._next, self._sent + self._timing.doubt)
        return self._next

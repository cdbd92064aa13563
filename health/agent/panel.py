"""Who is asked through the tunnel, and what their answers say of it: pure, the time comes in.

A round asks every name server of the tunnel and every target at once. It is a good one when a name server answered
(without names an exit is of no use) and some target was reached; the latter is asked for only where at least two hosts
among the targets are reached through this exit: who never was, or not for 20 good rounds, is no witness. So a target
that is dead, or was never let through, takes no exit down, nor does one after the other; that two hosts or more of
different people die at the same moment means that nothing leaves the exit, though its server still answers.

The loss is that of the witness in the middle, the better one where there are two: a tunnel that loses datagrams loses
those to everybody, a witness with a fault of its own is the only one that loses. Half of them may be dead. So it is
with the time that targets take: a slow tunnel makes all of them slow.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median_low
from typing import Any

TIMEOUT = 1.0
_WINDOW = 20
_FALL = 3
_HOSTS = 2


@dataclass(slots=True)
class _Witness:
    """A name server or a target. `spoke`: it has answered at least once; `missed`: so many good rounds in a row it has
    not; `seconds` is how long its answer took last."""

    spoke: bool = False
    missed: int = 0
    seconds: float | None = None
    window: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    @property
    def counts(self) -> bool:
        return self.spoke and self.missed < _WINDOW

    @property
    def loss(self) -> float:
        return self.window.count(False) / len(self.window)


@dataclass(slots=True)
class _Round:
    asked_at: float
    servers: tuple[str, ...]
    targets: tuple[str, ...]
    waiting: set[str]
    answers: dict[str, float] = field(default_factory=dict)
    good: bool = False


class Panel:
    """Feed it with what was asked and what happened; times are seconds of one clock."""

    def __init__(self) -> None:
        self._witnesses: dict[str, _Witness] = {}
        self._rounds: dict[int, _Round] = {}
        self._jitter: deque[float] = deque(maxlen=_WINDOW)
        self._connect: float | None = None
        self._dns: float | None = None
        self._mute = 0
        self._targets: dict[str, float | None] = {}

    def begin(self, number: int, servers: tuple[str, ...], targets: tuple[str, ...], now: float) -> None:
        """Round `number` asks these."""
        if self._witnesses.keys() != {*servers, *targets}:
            self._rounds.clear()
            self._witnesses = {name: self._witnesses.get(name, _Witness()) for name in (*servers, *targets)}
        self._rounds[number] = _Round(now, servers, targets, {*servers, *targets})

    def answered(self, number: int, name: str, now: float) -> bool:
        """`name` answered; whether that is what makes the round a good one. Unexpected answers change nothing."""
        found = self._rounds.get(number)
        if found is None or name not in found.waiting or now >= found.asked_at + TIMEOUT:
            return False
        found.waiting.discard(name)
        found.answers[name] = now - found.asked_at
        self._witnesses[name].spoke = True
        became = not found.good and self._is_good(found)
        found.good |= became
        self._settle_if_done(number)
        return became

    def failed(self, number: int, name: str) -> bool:
        """`name` cannot be asked, or refused to be; whether the round can become a good one no more."""
        found = self._rounds.get(number)
        if found is None or name not in found.waiting:
            return False
        found.waiting.discard(name)
        lost = not found.good and not found.waiting
        self._settle_if_done(number)
        return lost

    def expire(self, now: float) -> None:
        """Who has not answered within a second does not."""
        for number in [n for n, found in self._rounds.items() if now >= found.asked_at + TIMEOUT]:
            self._settle(number)

    def renew(self, number: int) -> None:
        """Round `number` brought the tunnel up: what was lost before it says nothing. Who ever spoke is still known."""
        self._rounds = {n: found for n, found in self._rounds.items() if n == number}
        self._jitter.clear()
        for witness in self._witnesses.values():
            witness.window.clear()
            witness.seconds = None

    def measured(self, now: float) -> dict[str, Any]:
        """What `health.model.Sample` has of it, in milliseconds."""
        return {
            "loss": round(self.loss, 3),
            "connect_ms": _ms(self._connect_seconds(now)),
            "jitter_ms": _ms(fmean(self._jitter)) if self._jitter else None,
            "dns_ms": _ms(self._dns),
            "dns_ok": self._dns_ok,
            "targets": {name: _ms(seconds) for name, seconds in self._targets.items()},
        }

    @property
    def loss(self) -> float:
        """0 to 1."""
        shares = [w.loss for w in self._witnesses.values() if w.counts and w.window]
        return median_low(shares) if shares else 0.0

    @property
    def only_named(self) -> bool:
        """Whether the last round was answered by name servers, and by none of its targets."""
        return bool(self._targets) and self._mute == 0 and not any(self._targets.values())

    @property
    def _dns_ok(self) -> bool | None:
        if self._mute >= _FALL:
            return False
        return None if self._dns is None else True

    def _connect_seconds(self, now: float) -> float | None:
        """As measured last, or how long a round has been waiting for all its targets already, if that is longer."""
        if self._connect is None:
            return None
        waits = [
            now - found.asked_at
            for found in self._rounds.values()
            if self._quorum(found) and not any(name in found.answers for name in found.targets)
        ]
        return max([self._connect, *waits])

    def _is_good(self, found: _Round) -> bool:
        named = any(name in found.answers for name in found.servers)
        return named and (not self._quorum(found) or any(name in found.answers for name in found.targets))

    def _quorum(self, found: _Round) -> bool:
        hosts = {name.rpartition(":")[0] for name in found.targets if self._witnesses[name].counts}
        return len(hosts) >= _HOSTS

    def _settle_if_done(self, number: int) -> None:
        if not self._rounds[number].waiting:
            self._settle(number)

    def _settle(self, number: int) -> None:
        found = self._rounds.pop(number)
        moved = []
        for name in (*found.servers, *found.targets):
            witness, seconds = self._witnesses[name], found.answers.get(name)
            witness.window.append(seconds is not None)
            witness.missed = 0 if seconds is not None else witness.missed + found.good
            if seconds is not None and witness.seconds is not None and name in found.targets:
                moved.append(abs(seconds - witness.seconds))
            witness.seconds = witness.seconds if seconds is None else seconds
        if moved:
            self._jitter.append(median_low(moved))
        self._targets = {name: found.answers.get(name) for name in found.targets}
        reached = [seconds for seconds in self._targets.values() if seconds is not None]
        self._connect = median_low(reached) if reached else None
        named = [found.answers[name] for name in found.servers if name in found.answers]
        self._dns = min(named, default=self._dns)
        self._mute = 0 if named else self._mute + 1


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)

"""Which nodes of a pool are so much worse than their neighbours that the choice is to leave them out. Pure: `now`
(monotonic seconds) comes in.

A node is compared with the median of its pool, and only in a pool of 5 measured nodes and 100 dials or more:

    latency   3 × the median and 100 ms above it, at three looks in a row; back below 2 × the median or 50 ms above it,
              at two. Only what the node's own agent measures, which goes on while the node is left out
    failures  of 100 dials or more, three times the median's share and 10 % or more failed by the node's own fault. Out
              for 30 s, doubling with every further time up to 300 s (one doubling is forgotten for every 300 s of
              peace): without connections there is nothing that would show that it is well again

At most half of a pool is left out, those that are unhealthy counted in, and never the one node of a pool of one. Where
that limit is reached the pool is in panic: those in excess stay in the choice, and an operator should look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median

from health import score

FEWEST_NODES = 5
FEWEST_DIALS = 100.0
LATENCY_OUT = (3.0, 100.0)  # so many times the median, and so many ms above it
LATENCY_BACK = (2.0, 50.0)
FAILURES_TIMES = 3.0
FAILURES_LEAST = 0.1
OUT_S = (30.0, 300.0)
FORGET_S = 300.0
LATENCY, FAILURES = "latency", "failures"


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the pool that is not hard-down. `latency_ms` is the agent's, None where there is none; `failures` is
    the share of `dials`."""

    node: str
    healthy: bool
    value: float
    latency_ms: float | None = None
    failures: float = 0.0
    dials: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is to be left out and why; `panic`: the limit keeps more from being left out, or an only node from it."""

    out: Mapping[str, str] = field(default_factory=dict)
    panic: bool = False


@dataclass(slots=True)
class Absence:
    """How long one stays away that shows nothing while it does: longer each time, less so after some peace."""

    until: float = -inf
    times: int = 0

    def begin(self, now: float) -> None:
        """Once more, unless it still lasts."""
        if now >= self.until:
            forgotten = int(min(now - self.until, 10 * FORGET_S) // FORGET_S)
            self.times = max(self.times - forgotten, 0) + 1
            self.until = now + min(OUT_S[0] * 2.0 ** (self.times - 1), OUT_S[1])


@dataclass(slots=True)
class _Record:
    """What is remembered of a node."""

    health: int = score.FULL  # by latency
    absence: Absence = field(default_factory=Absence)  # for failures


class Outliers:
    """One fleet's."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def keep(self, nodes: Mapping[str, object]) -> None:
        """Forget every other node."""
        for node in self._records.keys() - nodes.keys():
            del self._records[node]

    def restore(self, node: str, reason: str, now: float) -> None:
        """The node was left out for `reason` when it was looked at last, by somebody else."""
        if reason == LATENCY:
            self._records[node] = _Record(health=0)
        elif reason == FAILURES:
            self._record(node).absence.begin(now)

    def judge(self, pool: Sequence[Member], now: float) -> Verdict:
        """Who of a pool is to be left out now. To be called at every look."""
        self._compare_latencies(pool)
        self._compare_failures(pool, now)
        wanted = [(m, reason) for m in pool if m.healthy and (reason := self._reason(m.node, now))]
        wanted.sort(key=lambda pair: (pair[1] != FAILURES, pair[0].value, pair[0].node))
        unhealthy = sum(not member.healthy for member in pool)
        room = max(len(pool) // 2 - unhealthy, 0)
        out = {member.node: reason for member, reason in wanted[:room]}
        return Verdict(out, unhealthy + len(wanted) > len(pool) // 2)

    def _compare_latencies(self, pool: Sequence[Member]) -> None:
        known = [member.latency_ms for member in pool if member.latency_ms is not None]
        enough = len(known) >= FEWEST_NODES and sum(member.dials for member in pool) >= FEWEST_DIALS
        middle = median(known) if enough else inf
        for member in pool:
            record = self._record(member.node)
            times, above = LATENCY_OUT if record.health >= score.RISE else LATENCY_BACK
            latency = member.latency_ms
            bad = latency is not None and latency > max(times * middle, middle + above)
            record.health = score.step(record.health, bad=bad)

    def _compare_failures(self, pool: Sequence[Member], now: float) -> None:
        known = [member for member in pool if member.dials >= FEWEST_DIALS]
        if len(known) < FEWEST_NODES:
            return
        limit = max(FAILURES_TIMES * median(member.failures for member in known), FAILURES_LEAST)
        for member in known:
            if member.failures > limit:
                self._record(member.node).absence.begin(now)

    def _reason(self, node: str, now: float) -> str:
        record = self._record(node)
        if now < record.absence.until:
            return FAILURES
        return LATENCY if record.health < score.RISE else ""

    def _record(self, node: str) -> _Record:
        return self._records.setdefault(node, _Record())

"""Which node a new connection goes to, and which nodes are better left alone for a while. Pure: `now` (monotonic
seconds) and the rng come in.

Hard-down nodes never become candidates; that is the caller's. Soft ejection (an unhealthy score, failed dials) is
decided here: at most half of a pool, never a pool of one. Must not know snapshots, links, sessions or Redis.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import inf, sqrt
from typing import Any, Final, Generic, Protocol, TypeVar

from health.model import Strategy

UNKNOWN_SCORE = 50.0
SAME_SCORE: Final = 0.85  # of the better one: what lies between is noise, and no reason to prefer a node
MIN_LATENCY_MS = 1.0

FAILURES_IN_A_ROW = 5
EJECT_S = (30.0, 300.0)
MOST_EJECTIONS = 5  # 30 s doubled so often is past the longest
FORGET_S = 300.0  # one doubling is forgotten for every so many seconds without an ejection
SLOW_START_S = 30.0
SLOW_START_SHARE = 0.1  # where the slow start begins

# Statistics. The highest z-score that one of n values can have is sqrt(n - 1): 2.0 for five.
WINDOW_S = 30.0
STATISTICS_NODES = 5
STATISTICS_DIALS = 100
OUTLIER_DEVIATIONS = 1.9
OUTLIER_SHARE = 0.1

RETRY_SHARE = 0.2
RETRIES_ALWAYS = 3


class Rng(Protocol):
    """What is used of random.Random: a float in [0, 1)."""

    def random(self) -> float: ...


class Carrier(Protocol):
    """What carries a node's connections."""

    @property
    def in_flight(self) -> int:
        """Connections this gateway has through it, dials included."""


class Carried:
    """The connections through one node."""

    __slots__ = ("dials", "tunnels")

    def __init__(self) -> None:
        self.dials: set[Any] = set()
        self.tunnels: set[Any] = set()

    @property
    def in_flight(self) -> int:
        return len(self.dials) + len(self.tunnels)


@dataclass(slots=True, eq=False)
class Candidate:
    """A node as one gateway sees it: what was measured of it, and how its own dials through it went.

    `score` 0 (worst) to 100; `latency_ms` None where it was not measured yet. `out_until`: ejected for failed dials
    until then; `warm_at`: the end of its slow start.
    """

    id: str
    carrier: Carrier
    score: float = UNKNOWN_SCORE
    healthy: bool = True
    latency_ms: float | None = None
    out_until: float = -inf
    warm_at: float = -inf
    dials: int = 0
    failed_dials: int = 0
    dial_s: float = 0.0
    quickest_s: float = inf
    _judged_dials: int = 0
    _judged_failed: int = 0
    _in_a_row: int = 0
    _ejections: int = 0

    def worked(self, seconds: float) -> None:
        """A dial reached its target in `seconds`, or the target refused it: the node did its part."""
        self.dials += 1
        self._in_a_row = 0
        self.dial_s += seconds
        if seconds < self.quickest_s:
            self.quickest_s = seconds

    def failed(self, now: float) -> bool:
        """A dial failed by the node's own fault; True if that ejects it."""
        self.dials += 1
        self.failed_dials += 1
        if now < self.out_until:
            return False
        self._in_a_row += 1
        if self._in_a_row < FAILURES_IN_A_ROW:
            return False
        self.eject(now)
        return True

    def lately(self) -> tuple[int, int]:
        """Dials, and those of them that failed, since this was asked last."""
        dials, failed = self.dials - self._judged_dials, self.failed_dials - self._judged_failed
        self._judged_dials, self._judged_failed = self.dials, self.failed_dials
        return dials, failed

    def eject(self, now: float) -> None:
        """Out for 30 s, doubling with every further ejection up to 300 s; slow start after it."""
        forgotten = int(min(now - self.out_until, FORGET_S * MOST_EJECTIONS) // FORGET_S)
        self._ejections = min(max(self._ejections - forgotten, 0) + 1, MOST_EJECTIONS)
        self._in_a_row = 0
        shortest, longest = EJECT_S
        self.out_until = now + min(shortest * 2 ** (self._ejections - 1), longest)
        self.recovered(self.out_until)

    def recovered(self, now: float) -> None:
        """It can be used again from `now` on: its share rises over 30 s."""
        self._in_a_row = 0
        self.warm_at = max(self.warm_at, now + SLOW_START_S)

    def share(self, now: float) -> float:
        """The part of its connections that it is given: below 1 during the slow start, linear."""
        return min(max(1 - (self.warm_at - now) / SLOW_START_S, SLOW_START_SHARE), 1.0)


C = TypeVar("C", bound=Candidate)


class Group(Generic[C]):
    """The nodes that fit one kind of want, ready to be chosen from again and again until `until`.

    `best` is what is chosen from, in the order of the ids; `rest` are those softly out, for when the best were tried.
    """

    __slots__ = ("_pick", "best", "rest", "turn", "until")

    def __init__(
        self, fitting: Iterable[C], out: Collection[C], strategy: Strategy, *, until: float = inf, turn: int = 0
    ) -> None:
        ordered = sorted(fitting, key=lambda candidate: candidate.id)
        self.best = [candidate for candidate in ordered if candidate not in out]
        self.rest = [candidate for candidate in ordered if candidate in out]
        if not self.best:
            self.best, self.rest = self.rest, []
        self._pick = _PICKS[strategy]
        self.until = until
        self.turn = turn

    def left(self, tried: Collection[str]) -> list[C]:
        """The best ones not `tried`, else the rest of them."""
        if not tried:
            return self.best
        return [c for c in self.best if c.id not in tried] or [c for c in self.rest if c.id not in tried]

    def choose(self, rng: Rng, now: float, tried: Collection[str] = ()) -> C | None:
        """The node for one connection, None where all were tried."""
        left = self.left(tried) if tried else self.best
        if not left:
            return None
        self.turn += 1
        chosen = self._pick(left, rng, self.turn)
        if now < chosen.warm_at and rng.random() >= chosen.share(now):
            warm = [candidate for candidate in left if now >= candidate.warm_at]
            return self._pick(warm, rng, self.turn) if warm else chosen
        return chosen


def pick_sticky(session_key: str, candidates: Sequence[C]) -> C | None:
    """The node of a session by rendezvous hashing (None of none): every gateway picks the same one.

    Only the ids count, not the scores: a node that comes or goes moves no session of another.
    """
    return max(candidates, key=lambda candidate: (_weight(session_key, candidate.id), candidate.id), default=None)


def left_out(pool: Sequence[C], now: float) -> list[C]:
    """Those of a pool (all that could be used, of one country) that are softly out: ejected or unhealthy.

    The worst only, at most half of the pool, so never the one of a pool of one.
    """
    doubtful = [candidate for candidate in pool if _doubtful(candidate, now)]
    doubtful.sort(key=lambda candidate: (now >= candidate.out_until, candidate.score, candidate.id))
    return doubtful[: len(pool) // 2]


def in_panic(pool: Sequence[C], now: float) -> bool:
    """More of a pool (all that could be used, of one country) are ejected or unhealthy than `left_out` leaves out."""
    return sum(_doubtful(candidate, now) for candidate in pool) > len(pool) // 2


def _doubtful(candidate: Candidate, now: float) -> bool:
    return now < candidate.out_until or not candidate.healthy


def judge(pool: Sequence[C], now: float) -> list[C]:
    """Eject and return those of a pool whose dials failed far more often than their neighbours', and count afresh.

    To be called at the end of each window of 30 s. Silent below five nodes with 100 dials each; a node that fails no
    more than one dial in ten is never an outlier.
    """
    counted = [(candidate, *candidate.lately()) for candidate in pool]
    measured = [(candidate, failed / dials) for candidate, dials, failed in counted if dials >= STATISTICS_DIALS]
    if len(measured) < STATISTICS_NODES:
        return []
    shares = [share for _, share in measured]
    mean = sum(shares) / len(shares)
    deviation = sqrt(sum((share - mean) ** 2 for share in shares) / len(shares))
    limit = max(mean + OUTLIER_DEVIATIONS * deviation, OUTLIER_SHARE)
    outliers = [candidate for candidate, share in measured if share > limit and now >= candidate.out_until]
    for candidate in outliers:
        candidate.eject(now)
    return outliers


class RetryBudget:
    """Dials that are on a further node at the same time: 20 % of the active connections, or 3."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running = 0

    def take(self, active: int) -> bool:
        """True if one more may go on; `give_back` follows when it ends."""
        if self._running >= max(RETRY_SHARE * active, RETRIES_ALWAYS):
            return False
        self._running += 1
        return True

    def give_back(self) -> None:
        self._running -= 1


# Each takes one of at least one candidate; `turn` counts the choices made.


def _in_turn(candidates: list[C], _rng: Rng, turn: int) -> C:
    return candidates[turn % len(candidates)]


def _idlest(candidates: list[C], rng: Rng, turn: int) -> C:
    loads = [candidate.carrier.in_flight for candidate in candidates]
    fewest = min(loads)
    return _any([c for c, load in zip(candidates, loads, strict=True) if load == fewest], rng, turn)


def _any(candidates: list[C], rng: Rng, _turn: int) -> C:
    return candidates[int(rng.random() * len(candidates))]


def _two_choices(candidates: list[C], rng: Rng, _turn: int) -> C:
    # Two different ones, every pair equally likely. rng.sample draws the same pairs and takes 3 µs, six times as long.
    count = len(candidates)
    if count == 1:
        return candidates[0]
    first = int(rng.random() * count)
    second = int(rng.random() * (count - 1))
    one, other = candidates[first], candidates[second + (second >= first)]
    mine, others = one.score + 1, other.score + 1
    if mine * SAME_SCORE <= others and others * SAME_SCORE <= mine:
        mine = others
    # Connections per point of score, the new one counted: half the score carries half the connections.
    if (one.carrier.in_flight + 1) * others <= (other.carrier.in_flight + 1) * mine:
        return one
    return other


def _latency_weights(candidates: list[C]) -> list[float]:
    """The inverse of the latency; a node not measured yet counts as the slowest one that is."""
    known = [max(c.latency_ms, MIN_LATENCY_MS) for c in candidates if c.latency_ms is not None]
    slowest = max(known, default=MIN_LATENCY_MS)
    return [1 / (slowest if c.latency_ms is None else max(c.latency_ms, MIN_LATENCY_MS)) for c in candidates]


def _quickest(candidates: list[C], rng: Rng, _turn: int) -> C:
    weights = _latency_weights(candidates)
    left = rng.random() * sum(weights)
    for candidate, weight in zip(candidates, weights, strict=True):
        left -= weight
        if left < 0:
            return candidate
    return candidates[-1]


_PICKS = {
    Strategy.ROUND_ROBIN: _in_turn,
    Strategy.LEAST_CONNECTIONS: _idlest,
    Strategy.WEIGHTED_LATENCY: _quickest,
    Strategy.RANDOM: _any,
    Strategy.HEALTH_SCORE: _two_choices,
}


def _weight(session_key: str, node: str) -> int:
    digest = blake2b(node.encode(), key=blake2b(session_key.encode(), digest_size=32).digest(), digest_size=8)
    return int.from_bytes(digest.digest())

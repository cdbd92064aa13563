"""Which node a new connection goes to. A pure choice: what is known of the nodes and the rng come in.

Hard-down nodes are never among the candidates; that is the caller's. Unhealthy ones are used only where no healthy
one is left.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from health.model import Strategy

MIN_LATENCY_MS = 1.0


class Rng(Protocol):
    """What is used of random.Random."""

    def random(self) -> float: ...
    def sample(self, population: range, k: int) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could be dialled through now.

    `score` 0 (worst) to 100; `in_flight` connections this gateway has through it, dials included; `latency_ms` None
    where it was not measured yet.
    """

    node: str
    score: float
    healthy: bool = True
    in_flight: int = 0
    latency_ms: float | None = None


def choose(
    candidates: Sequence[Candidate],
    strategy: Strategy,
    *,
    rng: Rng,
    counter: int = 0,
    exclude: Collection[str] = (),
) -> Candidate | None:
    """The node for one connection, None where none is left.

    `counter` is the number of choices made before in this pool (round robin); `exclude` the nodes already tried.
    """
    usable = _usable(candidates, exclude)
    if len(usable) < 2:
        return usable[0] if usable else None
    match strategy:
        case Strategy.ROUND_ROBIN:
            return sorted(usable, key=lambda candidate: candidate.node)[counter % len(usable)]
        case Strategy.LEAST_CONNECTIONS:
            fewest = min(candidate.in_flight for candidate in usable)
            return _any([candidate for candidate in usable if candidate.in_flight == fewest], rng)
        case Strategy.WEIGHTED_LATENCY:
            return _weighted(usable, _latency_weights(usable), rng)
        case Strategy.RANDOM:
            return _any(usable, rng)
        case Strategy.HEALTH_SCORE:
            return _two_choices(usable, rng)


def pick_sticky(session_key: str, candidates: Sequence[Candidate], exclude: Collection[str] = ()) -> Candidate | None:
    """The node of a session by rendezvous hashing (None where none is left): every gateway picks the same one.

    Only the node ids count, not the scores: a session stays while its node is among the candidates.
    """
    left = [candidate for candidate in candidates if candidate.node not in exclude]
    return max(left, key=lambda candidate: (_weight(session_key, candidate.node), candidate.node), default=None)


def _usable(candidates: Sequence[Candidate], exclude: Collection[str]) -> list[Candidate]:
    left = [candidate for candidate in candidates if candidate.node not in exclude]
    healthy = [candidate for candidate in left if candidate.healthy]
    return healthy or left


def _any(usable: Sequence[Candidate], rng: Rng) -> Candidate:
    return usable[rng.sample(range(len(usable)), 1)[0]]


def _two_choices(usable: Sequence[Candidate], rng: Rng) -> Candidate:
    first, second = rng.sample(range(len(usable)), 2)
    return min(usable[first], usable[second], key=_cost)


def _cost(candidate: Candidate) -> float:
    """Connections per point of score, the new one counted: half the score carries half the connections."""
    return (candidate.in_flight + 1) / (candidate.score + 1)


def _latency_weights(usable: Sequence[Candidate]) -> list[float]:
    """The inverse of the latency; a node not measured yet counts as the slowest one that is."""
    known = [max(candidate.latency_ms, MIN_LATENCY_MS) for candidate in usable if candidate.latency_ms is not None]
    slowest = max(known, default=MIN_LATENCY_MS)
    return [
        1 / (slowest if candidate.latency_ms is None else max(candidate.latency_ms, MIN_LATENCY_MS))
        for candidate in usable
    ]


def _weighted(usable: Sequence[Candidate], weights: Sequence[float], rng: Rng) -> Candidate:
    left = rng.random() * sum(weights)
    for candidate, weight in zip(usable, weights, strict=True):
        left -= weight
        if left < 0:
            return candidate
    return usable[-1]


def _weight(session_key: str, node: str) -> int:
    digest = blake2b(node.encode(), key=blake2b(session_key.encode(), digest_size=32).digest(), digest_size=8)
    return int.from_bytes(digest.digest())

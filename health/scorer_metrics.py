"""The scorer's own numbers, as Prometheus sees them. Only the one that leads says anything of nodes and pools."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Gauge

from health.book import Book
from health.model import Node

LEADING = Gauge("vpnexit_scorer_leading", "1 while this scorer leads")
PANIC = Gauge(
    "vpnexit_scorer_pool_panic",
    "1 while more of a country's nodes are in a bad way than may be left out of the choice",
    ["country"],
)
SCORE = Gauge("vpnexit_scorer_node_score", "A node's score, 0 (worst) to 100", ["country", "node"])
HEALTHY = Gauge("vpnexit_scorer_node_healthy", "1 for a node that the choice may use", ["country", "node"])
LATENCY = Gauge("vpnexit_scorer_node_latency_seconds", "Peak-EWMA of what a connection takes", ["country", "node"])
IGNORED = Counter("vpnexit_scorer_ignored", "What was told and cannot be true: no effect but this", ["what", "reason"])
LOOKED = Gauge("vpnexit_scorer_last_look_timestamp_seconds", "When scores were written last")


class Told:
    """Tells one scorer's numbers and remembers which it told."""

    def __init__(self) -> None:
        self._labels: dict[Any, set[tuple[str, ...]]] = {}
        self._ignored: Mapping[tuple[str, str], int] = {}

    def leads(self, leading: bool) -> None:
        """Whether it leads from now on; either way it begins anew."""
        LEADING.set(leading)
        self._ignored = {}
        for gauge in (PANIC, SCORE, HEALTHY, LATENCY):
            self._tell(gauge, {})

    def looked(self, book: Book, nodes: Mapping[str, Node], at: float) -> None:
        """Scores were written at `at` (Unix seconds)."""
        LOOKED.set(at)
        self._tell(PANIC, {(country,): float(panic) for country, panic in book.panic.items()})
        scores = [(nodes[s.node].country, s) for s in book.scores if s.node in nodes]
        self._tell(SCORE, {(country, s.node): s.value for country, s in scores})
        self._tell(HEALTHY, {(country, s.node): float(s.healthy and not s.ejected) for country, s in scores})
        self._tell(LATENCY, {(c, s.node): s.latency_ms / 1000 for c, s in scores if s.latency_ms is not None})
        for label, count in book.ignored.items():
            IGNORED.labels(*label).inc(count - self._ignored.get(label, 0))
        self._ignored = dict(book.ignored)

    def _tell(self, gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
        for label in self._labels.get(gauge, set()) - values.keys():
            gauge.remove(*label)
        for label, value in values.items():
            gauge.labels(*label).set(value)
        self._labels[gauge] = set(values)

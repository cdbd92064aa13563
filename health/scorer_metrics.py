"""What a scorer's judgement adds to its numbers: pools in panic, nodes that are left out, and what it did not believe.

Only the one that leads says anything of nodes and pools.
"""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge

from health.book import Book
from health.model import Node

PANIC = Gauge(
    "vpnexit_scorer_pool_panic",
    "1 while more of a country's nodes are in a bad way than may be left out of the choice",
    ["country"],
)
EJECTED = Gauge(
    "vpnexit_scorer_node_ejected",
    "1 for a healthy node that is left out because its neighbours are so much better",
    ["country", "node"],
)
IGNORED = Counter("vpnexit_scorer_ignored", "What was told and cannot be true: no effect but this", ["what", "reason"])


class Told:
    """Tells one scorer's numbers and remembers what it told."""

    def __init__(self) -> None:
        self._ignored: Mapping[tuple[str, str], int] = {}

    def begin(self) -> None:
        """It leads from now on, or no more; either way it begins anew."""
        self._ignored = {}
        PANIC.clear()
        EJECTED.clear()

    def looked(self, book: Book, nodes: Mapping[str, Node]) -> None:
        """Scores were written."""
        PANIC.clear()
        for country, panic in book.panic.items():
            PANIC.labels(country).set(panic)
        EJECTED.clear()
        for score in book.scores:
            if score.node in nodes:
                EJECTED.labels(nodes[score.node].country, score.node).set(bool(score.ejected))
        for label, count in book.ignored.items():
            IGNORED.labels(*label).inc(count - self._ignored.get(label, 0))
        self._ignored = dict(book.ignored)

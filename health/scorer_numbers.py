"""What a scorer shows of itself and of its nodes. Of several scorers only the one that leads shows nodes."""

from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from health.model import Score

_LABELS = ("country", "node")
LEADER = Gauge("vpnexit_scorer_leader", "Whether this scorer leads")
ROUNDS = Histogram(
    "vpnexit_scorer_round_seconds",
    "Time from the lease to the scores written",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
WRITTEN = Gauge("vpnexit_scorer_written_timestamp_seconds", "When scores were written last (Unix)")
REDIS_ERRORS = Counter("vpnexit_scorer_redis_errors", "Rounds that Redis did not answer")


class Numbers(Collector):
    """The last scores, put into words only when somebody asks: that costs as much as a round itself."""

    def __init__(self) -> None:
        self.scores: tuple[Score, ...] = ()

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry would collect everything to see which names there are."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        told = [((score.node[:2], score.node), score) for score in self.scores]  # an id begins with its country
        values = GaugeMetricFamily(
            "vpnexit_scorer_score_ratio", "Score by which the choice is made, 0 to 1", labels=_LABELS
        )
        healthy = GaugeMetricFamily("vpnexit_scorer_node_healthy", "Whether a node may be chosen", labels=_LABELS)
        terms = GaugeMetricFamily("vpnexit_scorer_term", "The terms of a score", labels=(*_LABELS, "term"))
        latency = GaugeMetricFamily(
            "vpnexit_scorer_latency_seconds", "Smoothed latency that the score is made of", labels=_LABELS
        )
        for labels, score in told:
            values.add_metric(labels, score.value / 100)
            healthy.add_metric(labels, score.healthy)
            for term, value in score.terms.items():
                terms.add_metric((*labels, term), value)
            if score.latency_ms is not None:
                latency.add_metric(labels, score.latency_ms / 1000)
        yield from (values, healthy, terms, latency)


NUMBERS = Numbers()
REGISTRY.register(NUMBERS)


def leading(leads: bool) -> None:
    """Whether this one leads now; who does not knows no nodes."""
    LEADER.set(leads)
    if not leads:
        NUMBERS.scores = ()


def written(scores: Iterable[Score], at: float, seconds: float) -> None:
    """All scores, as they were written at `at` (Unix seconds) by a round of so many seconds."""
    NUMBERS.scores = tuple(scores)
    WRITTEN.set(at)
    ROUNDS.observe(seconds)

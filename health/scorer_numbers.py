"""What a scorer shows of itself and of its nodes. Of several scorers only the one that leads shows nodes."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from health.model import Score

LEADER = Gauge("vpnexit_scorer_leader", "Whether this scorer leads")
SCORE = Gauge("vpnexit_scorer_score_ratio", "Score by which the choice is made, 0 to 1", ("country", "node"))
HEALTHY = Gauge("vpnexit_scorer_node_healthy", "Whether a node may be chosen", ("country", "node"))
TERM = Gauge("vpnexit_scorer_term", "The terms of a score", ("country", "node", "term"))
LATENCY = Gauge("vpnexit_scorer_latency_seconds", "Smoothed latency that the score is made of", ("country", "node"))
ROUNDS = Histogram(
    "vpnexit_scorer_round_seconds",
    "Time from the lease to the scores written",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
WRITTEN = Gauge("vpnexit_scorer_written_timestamp_seconds", "When scores were written last (Unix)")
REDIS_ERRORS = Counter("vpnexit_scorer_redis_errors", "Rounds that Redis did not answer")
_OF_NODES = (SCORE, HEALTHY, TERM, LATENCY)


def leading(leads: bool) -> None:
    """Whether this one leads now; who does not knows no nodes."""
    LEADER.set(leads)
    if not leads:
        for gauge in _OF_NODES:
            gauge.clear()


def written(scores: Iterable[Score], at: float, seconds: float) -> None:
    """All scores, as they were written at `at` (Unix seconds) by a round of so many seconds."""
    for gauge in _OF_NODES:
        gauge.clear()
    for score in scores:
        labels = (score.node[:2], score.node)  # an id begins with its country (`model.new_node_id`)
        SCORE.labels(*labels).set(score.value / 100)
        HEALTHY.labels(*labels).set(score.healthy)
        for term, value in score.terms.items():
            TERM.labels(*labels, term).set(value)
        if score.latency_ms is not None:
            LATENCY.labels(*labels).set(score.latency_ms / 1000)
    WRITTEN.set(at)
    ROUNDS.observe(seconds)

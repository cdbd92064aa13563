"""What a scorer shows."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from health import scorer_numbers
from health.model import Score

JP = {"country": "jp", "node": "jp3f9a1c"}


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    yield
    scorer_numbers.leading(False)


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def score(node: str = "jp3f9a1c", **fields: object) -> Score:
    given = {"at": 1.0, "value": 83.0, "healthy": True, "terms": {"up": 1.0, "latency": 0.83}, "latency_ms": 50.0}
    return Score.model_validate({"node": node, **given, **fields})


def test_scores_and_their_terms() -> None:
    scorer_numbers.leading(True)
    scorer_numbers.written([score(), score("us000001", healthy=False, latency_ms=None)], 1700.0, 0.2)
    assert value("vpnexit_scorer_leader") == 1
    assert value("vpnexit_scorer_score_ratio", **JP) == 0.83
    assert value("vpnexit_scorer_node_healthy", **JP) == 1
    assert value("vpnexit_scorer_node_healthy", country="us", node="us000001") == 0
    assert value("vpnexit_scorer_term", **JP, term="latency") == 0.83
    assert value("vpnexit_scorer_latency_seconds", **JP) == 0.05
    assert value("vpnexit_scorer_latency_seconds", country="us", node="us000001") is None
    assert value("vpnexit_scorer_written_timestamp_seconds") == 1700.0


def test_a_node_that_left_is_not_shown() -> None:
    scorer_numbers.written([score()], 1.0, 0.2)
    scorer_numbers.written([], 2.0, 0.2)
    assert value("vpnexit_scorer_score_ratio", **JP) is None


def test_who_does_not_lead_shows_no_nodes() -> None:
    scorer_numbers.leading(True)
    scorer_numbers.written([score()], 1.0, 0.2)
    scorer_numbers.leading(False)
    assert value("vpnexit_scorer_leader") == 0
    assert value("vpnexit_scorer_score_ratio", **JP) is None

"""Since when a node is unwell."""

from control.wellness import STALE_S, Wellness
from health.model import Score


def score(at: float, *, healthy: bool) -> dict[str, Score]:
    return {"jp000001": Score(node="jp000001", at=at, value=0, healthy=healthy)}


def test_from_the_first_bad_score_to_the_first_good_one() -> None:
    wellness = Wellness()
    for now in range(3):
        wellness.look(score(1e9 + now, healthy=False), 10.0 + now)
    assert wellness.unwell == {"jp000001": 10.0}
    wellness.look(score(1e9 + 4, healthy=True), 14.0)
    assert wellness.unwell == {}


def test_scores_that_stand_still_say_nothing_and_a_clock_that_jumps_neither() -> None:
    wellness = Wellness()
    wellness.look(score(1e9, healthy=False), 10.0)
    wellness.look(score(1e9 + 3600, healthy=False), 11.0)
    assert wellness.unwell == {"jp000001": 10.0}
    wellness.look(score(1e9 + 3600, healthy=False), 11.0 + STALE_S + 1)
    assert wellness.unwell == {}


def test_who_has_no_score_any_more_is_forgotten() -> None:
    wellness = Wellness()
    wellness.look(score(1e9, healthy=False), 10.0)
    wellness.look({}, 11.0)
    assert wellness.unwell == {}


def test_what_held_while_nobody_looked_is_not_known() -> None:
    wellness = Wellness()
    wellness.look(score(1e9, healthy=False), 10.0)
    wellness.look(score(1e9 + 3600, healthy=False), 3610.0)
    assert wellness.unwell == {"jp000001": 3610.0}

"""Since when a node is unwell."""

import pytest

from control.wellness import STALE_S, Wellness, ailment
from health.evidence import NOTHING, Seen
from health.model import Sample, Score, Tunnel
from health.score import FULL, State, judge


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


@pytest.mark.parametrize(
    ("sample", "seen", "mute", "said"),
    [
        ({"loss": 0.4}, NOTHING, False, "40% of its probes are lost"),
        ({"loss": 0.1}, Seen(failures=0.6, dials=50), False, "60% of the dials through it fail"),
        ({"handshake_age_s": 190.0}, NOTHING, False, "its last handshake was 190 s ago"),
        ({}, NOTHING, True, "nothing answers through it"),
        ({"rx_bytes": 5, "tx_bytes": 9}, NOTHING, False, "it has received nothing for 12 s"),
        ({"cpu_percent": 100.0}, NOTHING, False, ""),
    ],
)
def test_what_is_wrong_in_words(sample: dict[str, float], seen: Seen, mute: bool, said: str) -> None:
    state = State(health=FULL, moved_at=88.0, rx_bytes=5, tx_bytes=5)
    measured = Sample(node="jp000001", at=1e9, reachable=True, tunnel=Tunnel.UP, kill_switch=True, **sample)  # type: ignore[arg-type]
    _, found = judge(state, measured, 100.0, seen, mute=mute)
    assert ailment(found) == said


def test_it_is_known_for_as_long_as_the_node_is_unwell() -> None:
    wellness, (lossy,) = Wellness(), score(1e9, healthy=False).values()
    bad = lossy.model_copy(update={"terms": {"delivery": 0.1}, "inputs": {"delivery": 0.5}})
    wellness.look({"jp000001": bad}, 10.0)
    wellness.look(score(1e9 + 1, healthy=False), 11.0)
    assert wellness.ailments == {"jp000001": "50% of its probes are lost"}
    wellness.look(score(1e9 + 2, healthy=True), 12.0)
    assert wellness.ailments == {}

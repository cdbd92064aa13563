"""When a node is tested by the schedule: once in every stretch, spread, whoever asks and however often."""

from itertools import pairwise
from statistics import pstdev

import pytest

from health.speed import State, Test, abandoned, due

NODES = [f"jp{number:06x}" for number in range(250)]
EVERY = 6 * 3600.0
START = 1_700_000_000 // EVERY * EVERY


def moments(node: str, *, step: float, stretches: int = 5) -> list[float]:
    """When ticks of so many seconds find the node due, from the beginning of a stretch on."""
    ticks = [START + number * step for number in range(int(stretches * EVERY / step) + 1)]
    return [now for before, now in pairwise(ticks) if due(node, before, now, EVERY)]


@pytest.mark.parametrize("step", [1.0, 7.3, 60.0])
def test_once_in_every_stretch(step: float) -> None:
    found = moments("jp000001", step=step)
    assert [int((now - step / 2) // EVERY) for now in found] == [int(START // EVERY) + number for number in range(5)]


def test_spread_over_the_stretch_and_another_place_each_time() -> None:
    places = [[(now - START) % EVERY / EVERY for now in moments(node, step=30)] for node in NODES[:100]]
    first = sorted(one[0] for one in places)
    assert max(b - a for a, b in pairwise(first)) < 0.1
    assert abs(pstdev(first) - 12**-0.5) < 0.05  # that of an even spread
    assert all(pstdev(one) > 0.01 for one in places)


def test_a_tick_that_was_long_misses_nobody_and_asks_once() -> None:
    assert all(due(node, START, START + EVERY - 1e-3, EVERY) for node in NODES)
    assert not any(due(node, START + 5, START + 5, EVERY) for node in NODES)
    assert not any(due(node, START + 3600, START, EVERY) for node in NODES)  # the clock went back


def test_what_nobody_ended() -> None:
    test = Test(id="0" * 16, node="jp000001", country="jp", state=State.WAITING, asked=0, ends=1)
    assert "took the test in time" in abandoned(test, "m1").error
    running = test.model_copy(update={"state": State.RUNNING})
    assert "ended in the middle" in abandoned(running, "m1").error

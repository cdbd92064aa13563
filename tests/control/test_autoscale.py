"""Up at once, down slowly, never outside the pool's limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.autoscale import DOWN_AFTER_S, Load, Past, advise
from health.model import Pool


def pool(desired: int, **fields: int | None) -> Pool:
    return Pool.model_validate({"country": "jp", "desired": desired, "target_connections": 100, **fields})


@pytest.mark.parametrize(
    ("desired", "connections", "expected"),
    [(1, 110, 1), (1, 111, 2), (2, 1000, 4), (4, 1000, 8), (8, 1000, 10), (3, 331, 4), (10, 99999, 10)],
)
def test_up_at_once_to_what_is_needed_and_at_most_twice(desired: int, connections: int, expected: int) -> None:
    assert advise(pool(desired), Load(connections), Past(), 0.0)[0] == expected


def test_down_by_one_after_five_quiet_minutes_and_by_one_more_after_five_more() -> None:
    wanted, past, now, changes = 4, Past(), 0.0, []
    while now <= 3 * DOWN_AFTER_S:
        desired, past = advise(pool(wanted), Load(90), past, now)
        if desired != wanted:
            changes.append((now, desired))
        wanted, now = desired, now + 5
    assert changes == [(DOWN_AFTER_S, 3), (2 * DOWN_AFTER_S + 5, 2)]


def test_a_peak_within_the_five_minutes_starts_them_anew() -> None:
    _, past = advise(pool(2), Load(10), Past(), 0.0)
    _, past = advise(pool(2), Load(150), past, 200.0)
    assert advise(pool(2), Load(10), past, 301.0)[0] == 2


def test_what_fills_fewer_nodes_to_the_brim_does_not_scale_down() -> None:
    _, past = advise(pool(2), Load(81), Past(), 0.0)
    assert past == Past()
    _, past = advise(pool(2), Load(80), Past(), 0.0)
    assert past == Past(0.0, 1)


def test_a_gateway_that_was_not_heard_never_scales_down_but_may_scale_up() -> None:
    past = Past(0.0, 1)
    assert advise(pool(2), Load(0, complete=False), past, 1e6) == (2, Past())
    assert advise(pool(2), Load(500, complete=False), past, 1e6)[0] == 4


def test_without_a_target_or_switched_off_nothing_moves() -> None:
    assert advise(pool(3, target_connections=None), Load(10**6), Past(), 0.0)[0] == 3
    assert advise(pool(0), Load(10**6), Past(), 0.0)[0] == 0


@given(
    st.integers(1, 10),
    st.integers(0, 10),
    st.integers(0, 10),
    st.lists(st.tuples(st.integers(0, 3000), st.booleans(), st.floats(1, 400)), max_size=40),
)
def test_never_outside_the_limits_and_down_by_one_only(
    first: int, low: int, high: int, looks: list[tuple[int, bool, float]]
) -> None:
    low, high = sorted((low, high))
    lowest, highest = min(max(low, 1), high), high
    desired, past, now = min(max(first, lowest), highest), Past(), 0.0
    for connections, complete, seconds in looks:
        now += seconds
        before = desired
        desired, past = advise(pool(before, min=low, max=high), Load(connections, complete), past, now)
        assert lowest <= desired <= highest or before == 0
        assert desired >= before - 1
        assert complete or desired >= before
        assert desired <= 2 * max(before, 1)

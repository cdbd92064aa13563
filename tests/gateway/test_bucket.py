"""The token bucket."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.bucket import BURST_S, WORTH_S, Bucket

TIMES = st.floats(0, 2, allow_nan=False)


@given(
    st.floats(64, 1e9),
    st.lists(st.tuples(TIMES, st.integers(0, 10**7), st.floats(64, 1e9) | st.none()), max_size=50),
)
def test_never_more_than_the_rate_and_one_burst(rate: float, steps: list[tuple[float, int, float | None]]) -> None:
    bucket, now, passed, earned = Bucket(rate, 0.0), 0.0, 0, rate * BURST_S
    for pause, wanted, changed in steps:
        now += pause
        earned += pause * bucket.rate
        taken = bucket.take(wanted, now)
        assert 0 <= taken <= wanted
        passed += taken
        assert bucket.passed == passed <= earned * (1 + 1e-9)
        if changed is not None:
            bucket.set_rate(changed, now)


@given(st.floats(50, 1e9), st.integers(1, 10**7))
def test_who_waits_as_told_always_gets_something_and_asks_seldom(rate: float, wanted: int) -> None:
    bucket, now, asked = Bucket(rate, 0.0), 0.0, 0
    start = bucket.take(wanted, now)
    left = wanted - start
    while left > 0 and asked < 60:
        pause = bucket.delay(now)
        assert pause >= 0.001
        now += pause + 1e-9 * (now + 1)
        taken = bucket.take(left, now)
        assert taken >= min(left, int(rate * WORTH_S))
        assert taken > 0
        left -= taken
        asked += 1
    # Below 100 bytes per second 20 ms are a byte or two.
    assert asked <= now / min(WORTH_S, int(rate * WORTH_S) / rate or 1.0) * 1.001 + 2


def test_it_fills_to_a_quarter_of_a_second_and_a_clock_that_goes_back_does_nothing() -> None:
    bucket = Bucket(1000, 100.0)
    assert bucket.take(10**6, 100.0) == 250
    assert bucket.take(10**6, 50.0) == 0
    assert bucket.take(10**6, 100.125) == 125
    assert bucket.take(10**6, 200.0) == 250


def test_nothing_rather_than_a_trifle_but_a_small_wish_passes() -> None:
    bucket = Bucket(1000, 0.0)
    bucket.take(240, 0.0)
    assert bucket.take(500, 0.0) == 0
    assert bucket.dry
    assert 0 < bucket.delay(0.0) <= WORTH_S
    assert bucket.take(10, 0.0) == 10
    assert bucket.take(0, 0.0) == 0


def test_what_was_not_used_comes_back() -> None:
    bucket = Bucket(1000, 0.0)
    assert bucket.take(250, 0.0) == 250
    bucket.give_back(200)
    assert bucket.passed == 50
    assert bucket.take(250, 0.0) == 200


def test_a_lower_rate_takes_the_saved_tokens_along() -> None:
    bucket = Bucket(10_000, 0.0)
    bucket.set_rate(100, 0.0)
    assert bucket.take(10**6, 0.0) == 25

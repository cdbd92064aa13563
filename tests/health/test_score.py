"""The formula: bounded, monotone, and its health integer."""

import math
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from health.model import Sample, Score, Tunnel
from health.score import (
    FALL,
    FULL,
    RISE,
    State,
    direct_sample,
    is_up,
    judge,
    restore,
    unreachable_sample,
    without_handshake,
)

NODE = "jp3f9a1c"
GOOD = Sample(
    node=NODE, at=1.0, reachable=True, tunnel=Tunnel.UP, kill_switch=True, probe_ms=50.0, loss=0.0, handshake_age_s=10.0
)

latencies = st.floats(0, 60_000)
losses = st.floats(0, 1)
ages = st.none() | st.floats(0, 1e9)
nows = st.floats(0, 1e7)
states = st.builds(State, health=st.integers(0, FULL), latency_ms=st.none() | latencies, at=nows)
samples = st.builds(
    Sample,
    node=st.just(NODE),
    at=st.floats(0, 1e10),
    reachable=st.booleans(),
    tunnel=st.sampled_from(Tunnel),
    kill_switch=st.booleans(),
    probe_ms=st.none() | latencies,
    loss=losses,
    handshake_age_s=ages,
)


@given(states, samples, nows)
def test_value_is_bounded_and_hard_down_is_zero(state: State, sample: Sample, now: float) -> None:
    after, score = judge(state, sample, now)
    assert 0 <= score.value <= 100
    assert 0 <= after.health <= FULL
    if not is_up(sample):
        assert score.value == 0
        assert not score.healthy
    assert score.healthy == (is_up(sample) and after.health >= RISE)
    assert Score.load(score.dump()) == score


@given(states, samples, nows)
def test_every_term_is_returned_and_their_product_is_the_value(state: State, sample: Sample, now: float) -> None:
    _, score = judge(state, sample, now)
    factors = {name: term for name, term in score.terms.items() if name != "health"}
    assert set(factors) == {"up", "latency", "delivery", "handshake"}
    assert all(0 <= term <= 1 for term in factors.values())
    assert score.value == pytest.approx(100 * math.prod(factors.values()), abs=0.005)


@pytest.mark.parametrize("field", ["probe_ms", "loss", "handshake_age_s"])
@given(state=states, sample=samples, now=nows, pair=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_value_and_health_fall_as_an_input_gets_worse(
    field: str, state: State, sample: Sample, now: float, pair: tuple[float, float]
) -> None:
    scale = {"probe_ms": 60_000, "loss": 1, "handshake_age_s": 400}[field]
    better, worse = (sample.model_copy(update={field: share * scale}) for share in sorted(pair))
    high_state, high = judge(state, better, now)
    low_state, low = judge(state, worse, now)
    assert low.value <= high.value
    assert low_state.health <= high_state.health
    assert low.healthy <= high.healthy


@pytest.mark.parametrize("worse", [{"reachable": False}, {"tunnel": Tunnel.DOWN}, {"kill_switch": False}])
@given(state=states, sample=samples, now=nows)
def test_losing_agent_tunnel_or_kill_switch_is_never_better(
    worse: dict[str, object], state: State, sample: Sample, now: float
) -> None:
    high_state, high = judge(state, sample, now)
    low_state, low = judge(state, sample.model_copy(update=worse), now)
    assert low.value <= high.value
    assert low_state.health <= high_state.health


@given(states, states, samples, nows)
def test_a_slower_past_is_never_better(one: State, other: State, sample: Sample, now: float) -> None:
    faster, slower = sorted((s.latency_ms or 0.0, s.at, s.health) for s in (one, other))
    high = judge(State(one.health, faster[0], one.at), sample, now)[1]
    low = judge(State(one.health, slower[0], one.at), sample, now)[1]
    assert low.value <= high.value


@given(states, latencies, nows)
def test_latency_stays_between_old_and_new_and_rises_at_once(state: State, probe: float, now: float) -> None:
    after, _ = judge(state, GOOD.model_copy(update={"probe_ms": probe}), now)
    assert after.latency_ms is not None
    known = state.latency_ms
    if known is None or probe >= known:
        assert after.latency_ms == probe
    else:
        assert probe <= after.latency_ms <= known


@given(states, samples, nows)
def test_restored_state_goes_on_as_if_nothing_had_happened(state: State, sample: Sample, now: float) -> None:
    after, score = judge(state, sample, now)
    assert restore(Score.load(score.dump()), now) == after


def test_a_fast_peak_decays_with_its_time_constant() -> None:
    state, _ = judge(State(), GOOD.model_copy(update={"probe_ms": 1000.0}), 0.0)
    state, _ = judge(state, GOOD.model_copy(update={"probe_ms": 0.0}), 10.0)
    assert state.latency_ms == pytest.approx(1000 / math.e)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({}, 83.33),
        ({"probe_ms": 0.0}, 100.0),
        ({"probe_ms": 250.0}, 50.0),
        ({"probe_ms": None}, 50.0),
        ({"loss": 0.1}, 60.75),
        ({"handshake_age_s": None}, 83.33),
        ({"handshake_age_s": 135.0}, 83.33),
        ({"handshake_age_s": 157.5}, 41.67),
        ({"handshake_age_s": 180.0}, 0.0),
        ({"loss": 1.0}, 0.0),
    ],
)
def test_written_down_examples(change: dict[str, object], value: float) -> None:
    assert judge(State(), GOOD.model_copy(update=change), 0.0)[1].value == value


def healths(state: State, *samples_: Sample) -> list[tuple[int, bool]]:
    """Health and verdict after each of `samples_`."""
    seen = []
    for now, sample in enumerate(samples_):
        state, score = judge(state, sample, float(now))
        seen.append((state.health, score.healthy))
    return seen


BAD = GOOD.model_copy(update={"loss": 0.5})
STALE = GOOD.model_copy(update={"handshake_age_s": 200.0})
STARTING = GOOD.model_copy(update={"tunnel": Tunnel.STARTING})


def test_first_good_sample_is_enough_at_start_up() -> None:
    assert healths(State(), GOOD) == [(FULL, True)]
    assert healths(State(), STARTING, STARTING, GOOD) == [(1, False), (1, False), (FULL, True)]


def test_falls_after_three_bad_ones_and_rises_after_two_good_ones() -> None:
    assert (RISE, FALL, FULL) == (2, 3, 4)
    full = State(health=FULL)
    assert healths(full, BAD, STALE, BAD, GOOD, GOOD) == [(3, True), (2, True), (0, False), (1, False), (4, True)]
    assert healths(full, BAD, BAD, GOOD, BAD, BAD, BAD) == [
        (3, True),
        (2, True),
        (4, True),
        (3, True),
        (2, True),
        (0, False),
    ]
    assert healths(full, BAD, BAD, BAD, GOOD, BAD, GOOD, GOOD)[-3:] == [(0, False), (1, False), (4, True)]


@pytest.mark.parametrize("change", [{"reachable": False}, {"tunnel": Tunnel.DOWN}, {"kill_switch": False}])
def test_hard_down_at_once_and_back_after_two(change: dict[str, object]) -> None:
    down = GOOD.model_copy(update=change)
    assert healths(State(health=FULL), down, GOOD, GOOD) == [(0, False), (1, False), (4, True)]


def test_stand_in_samples() -> None:
    assert judge(State(), direct_sample(NODE, 1.0), 0.0)[1].value == 100
    assert judge(State(health=FULL), unreachable_sample(NODE, 1.0), 0.0)[1].value == 0
    assert without_handshake(STALE).handshake_age_s is None


def test_restore_from_a_score_without_health() -> None:
    stored = Score(node=NODE, at=1.0, value=40.0, healthy=True, latency_ms=90.0)
    assert astuple(restore(stored, 7.0)) == (FULL, 90.0, 7.0)
    assert restore(stored.model_copy(update={"healthy": False}), 7.0).health == 0
    assert restore(stored.model_copy(update={"terms": {"health": 99.0}}), 7.0).health == FULL


@pytest.mark.parametrize(
    "change",
    [{"probe_ms": math.nan}, {"probe_ms": -1.0}, {"loss": math.inf}, {"loss": 1.1}, {"handshake_age_s": -0.1}],
)
def test_nonsense_never_becomes_a_sample(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate({**GOOD.model_dump(by_alias=True), **change})

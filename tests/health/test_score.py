"""The formula: bounded, monotone, and its health integer."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from health.evidence import NOTHING, Seen
from health.model import Sample, Score, Tunnel
from health.score import (
    DECAY_S,
    FALL,
    FORGET_S,
    FULL,
    MEANING,
    RISE,
    State,
    direct_sample,
    is_up,
    judge,
    restore,
    silence,
    unreachable_sample,
    upstream_sample,
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
counts = st.integers(0, 2**40)
states = st.builds(
    State,
    health=st.integers(0, FULL),
    latency_ms=st.none() | latencies,
    at=nows,
    moved_at=st.none() | nows,
    rx_bytes=counts,
    tx_bytes=counts,
)
seens = st.builds(
    Seen, failures=st.floats(0, 1), dials=st.floats(0, 1e6), quickest_ms=st.none() | latencies, answered=st.none()
)
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
    rx_bytes=counts,
    tx_bytes=counts,
    connect_ms=st.none() | latencies,
    jitter_ms=st.none() | latencies,
    dns_ms=st.none() | latencies,
    dns_ok=st.none() | st.booleans(),
    cpu_percent=st.none() | st.floats(0, 1e5),
)


@given(states, samples, nows, seens, st.booleans())
def test_value_is_bounded_and_hard_down_is_zero(
    state: State, sample: Sample, now: float, seen: Seen, mute: bool
) -> None:
    after, score = judge(state, sample, now, seen, mute=mute)
    assert 0 <= score.value <= 100
    assert 0 <= after.health <= FULL
    if not is_up(sample):
        assert score.value == 0
        assert not score.healthy
    assert score.healthy == (is_up(sample) and after.health >= RISE)
    assert Score.load(score.dump()) == score


@given(states, samples, nows, seens, st.booleans())
def test_every_term_is_returned_and_their_product_is_the_value(
    state: State, sample: Sample, now: float, seen: Seen, mute: bool
) -> None:
    _, score = judge(state, sample, now, seen, mute=mute)
    assert score.terms.keys() == MEANING.keys()
    assert score.inputs.keys() <= MEANING.keys()
    factors = [term for name, term in score.terms.items() if name != "health"]
    assert all(0 <= term <= 1 for term in factors)
    assert score.value == pytest.approx(100 * math.prod(factors), abs=0.005)


SCALES = {
    "probe_ms": 60_000,
    "connect_ms": 60_000,
    "jitter_ms": 60_000,
    "dns_ms": 60_000,
    "loss": 1,
    "handshake_age_s": 400,
    "cpu_percent": 400,
}


@pytest.mark.parametrize("field", SCALES)
@given(state=states, sample=samples, now=nows, seen=seens, pair=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_value_and_health_fall_as_an_input_gets_worse(
    field: str, state: State, sample: Sample, now: float, seen: Seen, pair: tuple[float, float]
) -> None:
    better, worse = (sample.model_copy(update={field: share * SCALES[field]}) for share in sorted(pair))
    assert_no_better(judge(state, worse, now, seen), judge(state, better, now, seen))


@pytest.mark.parametrize("field", ["failures", "quickest_ms"])
@given(state=states, sample=samples, now=nows, seen=seens, pair=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_value_and_health_fall_as_the_gateways_see_worse(
    field: str, state: State, sample: Sample, now: float, seen: Seen, pair: tuple[float, float]
) -> None:
    scale = {"failures": 1, "quickest_ms": 60_000}[field]
    better, worse = (replace(seen, **{field: share * scale}) for share in sorted(pair))
    assert_no_better(judge(state, sample, now, worse), judge(state, sample, now, better))


@given(states, samples, nows, seens, st.booleans())
def test_mute_or_without_names_is_never_better(
    state: State, sample: Sample, now: float, seen: Seen, mute: bool
) -> None:
    as_it_is = judge(state, sample, now, seen, mute=mute)
    assert_no_better(judge(state, sample, now, seen, mute=True), as_it_is)
    assert_no_better(judge(state, sample.model_copy(update={"dns_ok": False}), now, seen, mute=mute), as_it_is)


@given(states, samples, nows, seens, st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_targets_and_a_clients_fault_are_no_input(
    state: State, sample: Sample, now: float, seen: Seen, targets: float, clients: float
) -> None:
    spoilt = replace(seen, target_failures=targets, client_failures=clients, first_byte_ms=9e9, dial_ms=9e9)
    after, score = judge(state, sample, now, seen)
    other, shown = judge(state, sample, now, spoilt)
    assert (other, shown.value, shown.healthy, shown.terms) == (after, score.value, score.healthy, score.terms)


def assert_no_better(low: tuple[State, Score], high: tuple[State, Score]) -> None:
    assert low[1].value <= high[1].value
    assert low[0].health <= high[0].health
    assert low[1].healthy <= high[1].healthy


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
    restored = restore(Score.load(score.dump()), now)
    assert (restored.health, restored.latency_ms, restored.at) == (after.health, after.latency_ms, after.at)


def test_a_fast_peak_decays_with_its_time_constant() -> None:
    state, _ = judge(State(), GOOD.model_copy(update={"probe_ms": 1000.0}), 0.0)
    state, _ = judge(state, GOOD.model_copy(update={"probe_ms": 0.0}), DECAY_S)
    assert state.latency_ms == pytest.approx(1000 / math.e)


def test_what_is_not_measured_any_more_is_forgotten() -> None:
    upstream = upstream_sample(NODE, 1.0)
    state, score = judge(State(), upstream, 0.0, Seen(quickest_ms=1000.0))
    assert (state.latency_ms, score.value) == (1000.0, 5.88)
    state, _ = judge(state, upstream, FORGET_S)
    assert state.latency_ms == pytest.approx(1000 / math.e)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({}, 96.15),
        ({"probe_ms": 0.0}, 100.0),
        ({"probe_ms": 250.0}, 50.0),
        ({"connect_ms": 250.0}, 50.0),
        ({"probe_ms": 550.0}, 17.12),
        ({"probe_ms": None}, 50.0),
        ({"jitter_ms": 250.0}, 76.92),
        ({"dns_ms": 1000.0}, 48.08),
        ({"dns_ok": False}, 24.04),
        ({"loss": 0.05}, 96.15),
        ({"loss": 0.1}, 81.76),
        ({"loss": 0.5}, 14.02),
        ({"handshake_age_s": None}, 96.15),
        ({"handshake_age_s": 135.0}, 96.15),
        ({"handshake_age_s": 157.5}, 48.08),
        ({"handshake_age_s": 180.0}, 0.0),
        ({"loss": 1.0}, 0.0),
        ({"cpu_percent": 70.0}, 96.15),
        ({"cpu_percent": 100.0}, 48.08),
        ({"cpu_percent": 250.0}, 48.08),
    ],
)
def test_written_down_examples(change: dict[str, object], value: float) -> None:
    assert judge(State(), GOOD.model_copy(update=change), 0.0)[1].value == value


@pytest.mark.parametrize(("share", "value"), [(0.0, 96.15), (0.2, 31.51), (1.0, 0.0)])
def test_dials_that_failed_by_the_nodes_fault(share: float, value: float) -> None:
    assert judge(State(), GOOD, 0.0, Seen(failures=share, dials=100))[1].value == value


def test_an_upstream_is_judged_by_the_gateways_alone() -> None:
    upstream = upstream_sample(NODE, 1.0)
    assert judge(State(), upstream, 0.0)[1].value == 50
    state, score = judge(State(), upstream, 0.0, Seen(quickest_ms=50.0, dials=10))
    assert (score.value, score.healthy) == (96.15, True)
    for now in (1.0, 2.0, 3.0):
        state, score = judge(state, upstream, now, Seen(failures=1.0, dials=30))
    assert (score.value, score.healthy) == (0, False)


def passing(received: list[int]) -> list[tuple[float, float]]:
    """Silence and the term after each second, a probe's bytes having been sent in every one of them."""
    state, found = State(health=FULL), []
    for now, rx_bytes in enumerate(received):
        state, score = judge(state, GOOD.model_copy(update={"rx_bytes": rx_bytes, "tx_bytes": 1000 + now}), float(now))
        found.append((silence(state, float(now)), score.terms["flow"]))
    return found


def test_a_node_that_only_sends_loses_its_score_whatever_its_probes_say() -> None:
    found = passing([10, 20, *[30] * 14])
    assert found[7] == (5, 1)
    assert found[12] == (10, 0)
    state = State(health=FULL)
    for now in range(14):
        state, score = judge(state, GOOD.model_copy(update={"rx_bytes": 5, "tx_bytes": now}), float(now))
    assert (score.value, score.healthy) == (0, False)
    assert passing([*[30] * 14, 31])[-1] == (0, 1)


def test_an_idle_node_is_not_mute() -> None:
    state = State(health=FULL)
    for now in range(100):
        state, score = judge(state, GOOD.model_copy(update={"rx_bytes": 5, "tx_bytes": 5}), float(now))
    assert (score.terms["flow"], score.healthy) == (1, True)


@pytest.mark.parametrize(
    ("change", "seen", "well", "sick"),
    [
        ({"loss": 0.2}, NOTHING, True, False),
        ({"loss": 0.14}, NOTHING, True, True),
        ({"handshake_age_s": 150.0}, NOTHING, True, False),
        ({}, Seen(failures=0.4), True, False),
        ({}, Seen(failures=0.2), True, True),
    ],
)
def test_what_is_not_bad_enough_to_leave_may_be_too_bad_to_return(
    change: dict[str, object], seen: Seen, well: bool, sick: bool
) -> None:
    sample = GOOD.model_copy(update=change)
    for before, expected in ((State(health=FULL), well), (State(health=0), sick)):
        state = before
        for now in range(10):
            state, score = judge(state, sample, float(now), seen)
        assert score.healthy is expected


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
    assert restore(stored, 7.0) == State(FULL, 90.0, 7.0)
    assert restore(stored.model_copy(update={"healthy": False}), 7.0).health == 0
    assert restore(stored.model_copy(update={"terms": {"health": 99.0}}), 7.0).health == FULL


@pytest.mark.parametrize(
    "change",
    [{"probe_ms": math.nan}, {"probe_ms": -1.0}, {"loss": math.inf}, {"loss": 1.1}, {"handshake_age_s": -0.1}],
)
def test_nonsense_never_becomes_a_sample(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate({**GOOD.model_dump(by_alias=True), **change})

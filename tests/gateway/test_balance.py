import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import balance
from gateway.balance import Candidate, Group, RetryBudget, left_out, pick_sticky
from health.model import Strategy

ALL = list(Strategy)
NOW = 1000.0


@dataclass
class Load:
    in_flight: int = 0


def candidate(
    name: str, in_flight: int = 0, *, score: float = 80.0, healthy: bool = True, latency_ms: float | None = None
) -> Candidate:
    return Candidate(name, Load(in_flight), score, healthy, latency_ms)


def loaded(*in_flight: int) -> list[Candidate]:
    return [candidate(f"jp00000{n}", load) for n, load in enumerate(in_flight)]


def group(
    candidates: Sequence[Candidate], strategy: Strategy = Strategy.HEALTH_SCORE, now: float = NOW
) -> Group[Candidate]:
    """All of one pool."""
    return Group(candidates, left_out(candidates, now), strategy)


def shares(made: Group[Candidate], rounds: int = 20_000, now: float = NOW) -> dict[str, float]:
    rng = random.Random(7)
    picked = Counter(name_of(made.choose(rng, now)) for _ in range(rounds))
    return {one.id: picked[one.id] / rounds for one in made.best + made.rest}


def name_of(chosen: Candidate | None) -> str:
    assert chosen is not None
    return chosen.id


def fail(one: Candidate, times: int, now: float = NOW) -> bool:
    return [one.failed(now) for _ in range(times)][-1]


# strategies


@pytest.mark.parametrize("strategy", ALL)
def test_nothing_and_one(strategy: Strategy) -> None:
    rng = random.Random(1)
    assert group([], strategy).choose(rng, NOW) is None
    only = candidate("jp000001", score=0, healthy=False)
    assert group([only], strategy).choose(rng, NOW) is only
    assert group([only], strategy).choose(rng, NOW, {"jp000001"}) is None


@pytest.mark.parametrize("strategy", ALL)
def test_an_unhealthy_node_is_used_when_the_healthy_ones_were_tried(strategy: Strategy) -> None:
    sick = [candidate(f"jp00000{n}", score=100, healthy=False, latency_ms=1) for n in range(2)]
    well = [candidate(f"jp00000{n}", 500, score=1, latency_ms=900) for n in "ab"]
    made, rng = group([*sick, *well], strategy), random.Random(1)
    for _ in range(50):
        assert made.choose(rng, NOW) in well
        assert made.choose(rng, NOW, {"jp00000a"}) is well[1]
        assert made.choose(rng, NOW, {"jp00000a", "jp00000b"}) in sick


@pytest.mark.parametrize("strategy", ALL)
def test_nodes_already_tried_are_not_chosen_again(strategy: Strategy) -> None:
    made, rng = group(loaded(0, 0, 0), strategy), random.Random(1)
    tried: set[str] = set()
    for _ in range(3):
        tried.add(name_of(made.choose(rng, NOW, tried)))
    assert len(tried) == 3
    assert made.choose(rng, NOW, tried) is None


def test_round_robin_goes_round_whatever_the_order() -> None:
    made, rng = group(loaded(9, 0, 5)[::-1], Strategy.ROUND_ROBIN), random.Random(1)
    made.turn = 2
    turns = [name_of(made.choose(rng, NOW)) for _ in range(6)]
    assert turns == ["jp000000", "jp000001", "jp000002"] * 2


def test_least_connections_takes_the_idlest_and_is_fair_among_equals() -> None:
    shared = shares(group(loaded(4, 2, 2, 3), Strategy.LEAST_CONNECTIONS))
    assert shared["jp000000"] == shared["jp000003"] == 0
    assert shared["jp000001"] == pytest.approx(0.5, abs=0.02)


def test_random_is_fair() -> None:
    shared = shares(group(loaded(9, 1, 0, 5), Strategy.RANDOM))
    assert all(share == pytest.approx(0.25, abs=0.02) for share in shared.values())


def test_weighted_latency_goes_by_the_inverse() -> None:
    latencies = [10, 20, 20, None, 20]  # one not measured: counts as the slowest
    candidates = [candidate(f"jp00000{n}", latency_ms=latency) for n, latency in enumerate(latencies)]
    shared = shares(group(candidates, Strategy.WEIGHTED_LATENCY))
    assert shared["jp000000"] == pytest.approx(1 / 3, abs=0.02)
    assert all(shared[f"jp00000{n}"] == pytest.approx(1 / 6, abs=0.02) for n in range(1, 5))


def test_weighted_latency_without_any_measurement_is_fair() -> None:
    assert shares(group(loaded(0, 0), Strategy.WEIGHTED_LATENCY))["jp000000"] == pytest.approx(0.5, abs=0.02)


def test_a_latency_of_nothing_does_not_take_all() -> None:
    candidates = [candidate("jp000000", latency_ms=0.0), candidate("jp000001", latency_ms=1.0)]
    assert shares(group(candidates, Strategy.WEIGHTED_LATENCY))["jp000000"] == pytest.approx(0.5, abs=0.02)


def test_two_choices_are_fair_with_descending_loads() -> None:
    """Of four, the idlest is drawn in half of all pairs, and wins each; a biased draw gives it less."""
    shared = shares(group(loaded(40, 30, 20, 10)))
    expected = {"jp000000": 0.0, "jp000001": 1 / 6, "jp000002": 1 / 3, "jp000003": 1 / 2}
    assert shared == pytest.approx(expected, abs=0.02)
    ascending = shares(group(loaded(10, 20, 30, 40)))
    assert list(ascending.values()) == pytest.approx(list(expected.values())[::-1], abs=0.02)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_two_choices_are_fair_among_equals(count: int) -> None:
    shared = shares(group(loaded(*[3] * count)))
    assert all(share == pytest.approx(1 / count, abs=0.02) for share in shared.values())


def test_every_pair_is_drawn_equally_often() -> None:
    drawn: list[str] = []

    class Watched:
        def __init__(self, name: str) -> None:
            self.name = name

        @property
        def in_flight(self) -> int:
            drawn.append(self.name)
            return 1

    made = group([Candidate(name, Watched(name)) for name in "abcde"])
    rng, pairs = random.Random(7), Counter[frozenset[str]]()
    for _ in range(20_000):
        drawn.clear()
        made.choose(rng, NOW)
        pairs[frozenset(drawn)] += 1
    assert len(pairs) == 10
    assert all(len(pair) == 2 and count / 20_000 == pytest.approx(0.1, abs=0.01) for pair, count in pairs.items())


def test_half_the_score_carries_half_the_connections() -> None:
    good, half = Load(), Load()
    made = group([Candidate("jp000001", good, 99.0), Candidate("jp000002", half, 49.0)])
    rng = random.Random(3)
    for _ in range(300):
        chosen = made.choose(rng, NOW)
        assert chosen is not None
        chosen.carrier.in_flight += 1  # type: ignore[attr-defined]
    assert (good.in_flight, half.in_flight) == (200, 100)


@pytest.mark.parametrize(("better", "worse", "alike"), [(96.0, 84.0, True), (96.0, 80.0, False)])
def test_scores_that_differ_by_noise_are_the_same(better: float, worse: float, alike: bool) -> None:
    made = group([candidate("jp000001", score=better), candidate("jp000002", score=worse)])
    assert shares(made)["jp000001"] == (pytest.approx(0.5, abs=0.02) if alike else 1)


# sessions


def test_a_session_stays_whatever_order_load_and_score() -> None:
    first = pick_sticky("alice:a", loaded(0, 0, 0, 0))
    busy = [candidate(f"jp00000{n}", 99, score=1, healthy=False) for n in range(4)]
    assert name_of(first) == name_of(pick_sticky("alice:a", busy[::-1]))
    assert pick_sticky("alice:a", []) is None


def test_only_the_sessions_of_a_node_that_left_move() -> None:
    candidates = loaded(*[0] * 5)
    gone = candidates[2]
    left = [one for one in candidates if one is not gone]
    moved = 0
    for n in range(500):
        before, after = pick_sticky(f"s{n}", candidates), pick_sticky(f"s{n}", left)
        assert before is after or before is gone
        moved += before is gone
    assert moved > 50


def test_sessions_spread_evenly() -> None:
    picked = Counter(name_of(pick_sticky(f"session {n}", loaded(*[0] * 4))) for n in range(4000))
    assert all(900 < count < 1100 for count in picked.values())


def test_another_process_picks_the_same_node() -> None:
    program = (
        "from gateway.balance import *\n"
        "print(*(pick_sticky(f's{n}', [Candidate(f'jp00000{i}', None) for i in range(5)]).id for n in range(50)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == [name_of(pick_sticky(f"s{n}", loaded(*[0] * 5))) for n in range(50)]


# passive ejection


def test_five_failures_in_a_row_eject() -> None:
    one = candidate("jp000001")
    assert not fail(one, 4)
    one.worked(0.01)
    assert not fail(one, 4)
    assert one.out_until < NOW
    assert one.failed(NOW)
    assert one.out_until == NOW + 30


def test_failures_of_dials_that_were_under_way_do_not_eject_again() -> None:
    one = candidate("jp000001")
    fail(one, 5)
    assert not fail(one, 50, NOW + 1)
    assert one.out_until == NOW + 30
    assert not fail(one, 4, NOW + 31), "a row begins anew after an ejection"
    assert one.failed(NOW + 31)


def test_the_time_out_doubles_up_to_its_limit() -> None:
    one, now, times = candidate("jp000001"), NOW, []
    for _ in range(7):
        assert fail(one, 5, now)
        times.append(one.out_until - now)
        now = one.out_until
    assert times == [30, 60, 120, 240, 300, 300, 300]


def test_a_doubling_is_forgotten_for_every_five_minutes_of_peace() -> None:
    one = candidate("jp000001")
    for _ in range(3):
        fail(one, 5, max(NOW, one.out_until))
    now = one.out_until + 601  # two forgotten: the next is the second again
    fail(one, 5, now)
    assert one.out_until - now == 60
    later = one.out_until + 10_000
    fail(one, 5, later)
    assert one.out_until - later == 30


def test_an_ejected_node_comes_back_by_itself() -> None:
    candidates = loaded(0, 0, 0)
    fail(candidates[0], 5)
    assert shares(group(candidates), 500)["jp000000"] == 0
    after = NOW + 30 + 30
    assert shares(group(candidates, now=after), now=after)["jp000000"] == pytest.approx(1 / 3, abs=0.02)


def test_never_more_than_half_of_a_pool_is_out() -> None:
    candidates = [candidate(f"jp00000{n}", score=90 - n, healthy=False) for n in range(5)]
    fail(candidates[0], 5)
    assert [one.id for one in left_out(candidates, NOW)] == ["jp000000", "jp000004"], "the ejected one, then the worst"
    assert balance.in_panic(candidates, NOW)


def test_a_pool_of_one_is_never_out() -> None:
    only = candidate("jp000001", healthy=False)
    fail(only, 5)
    assert left_out([only], NOW) == []
    assert balance.in_panic([only], NOW)
    assert group([only]).choose(random.Random(1), NOW) is only


# slow start


@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize(("passed", "expected"), [(0, 0.1), (15, 0.5), (24, 0.8), (30, 1.0)])
def test_after_a_recovery_the_share_rises_linearly(strategy: Strategy, passed: float, expected: float) -> None:
    candidates = loaded(0, 0)  # idle for ever: without slow start each gets half
    candidates[0].recovered(NOW)
    share = shares(group(candidates, strategy), now=NOW + passed)["jp000000"]
    assert share == pytest.approx(0.5 * expected, abs=0.02)


def test_an_idle_node_that_recovers_is_not_stormed() -> None:
    candidates = loaded(0, 500, 500, 500)
    assert shares(group(candidates))["jp000000"] == pytest.approx(0.5, abs=0.02)
    candidates[0].recovered(NOW)
    assert shares(group(candidates))["jp000000"] == pytest.approx(0.05, abs=0.02)


def test_where_all_recover_at_once_they_share_as_ever() -> None:
    candidates = loaded(0, 0, 0)
    for one in candidates:
        one.recovered(NOW)
    assert all(share == pytest.approx(1 / 3, abs=0.02) for share in shares(group(candidates)).values())


def test_a_new_node_has_its_full_share_at_once() -> None:
    assert candidate("jp000001").share(0.0) == 1


# statistics


def busy(*failed: int, dials: int = 100) -> list[Candidate]:
    made = loaded(*[0] * len(failed))
    for one, count in zip(made, failed, strict=True):
        one.dials, one.failed_dials = dials, count
    return made


def test_an_outlier_among_five_busy_nodes_is_ejected() -> None:
    pool = busy(1, 0, 40, 2, 0)
    assert balance.judge(pool, NOW) == [pool[2]]
    assert pool[2].out_until == NOW + 30
    assert balance.judge(pool, NOW + 31) == [], "the next window counts afresh"


@pytest.mark.parametrize(
    "pool",
    [
        busy(0, 0, 40, 0),
        busy(0, 0, 40, 0, 0, dials=99),
        busy(0, 0, 9, 0, 0),
        busy(40, 41, 40, 39, 40),
    ],
    ids=["four nodes", "too few dials", "fails little", "all fail alike"],
)
def test_no_outlier(pool: list[Candidate]) -> None:
    assert balance.judge(pool, NOW) == []


def test_dials_are_counted_for_the_statistics() -> None:
    one = candidate("jp000001")
    one.worked(0.25)
    one.worked(0.125)
    one.failed(NOW)
    assert (one.dials, one.failed_dials, one.dial_s, one.quickest_s) == (3, 1, 0.375, 0.125)
    assert one.lately() == (3, 1)
    one.worked(0.5)
    assert one.lately() == (1, 0)
    assert (one.dials, one.failed_dials) == (4, 1)


# retries


@pytest.mark.parametrize(("active", "most"), [(0, 3), (15, 3), (16, 4), (20, 4), (1000, 200)])
def test_the_retry_budget(active: int, most: int) -> None:
    budget = RetryBudget()
    assert [budget.take(active) for _ in range(most + 5)] == [True] * most + [False] * 5
    budget.give_back()
    assert [budget.take(active) for _ in range(2)] == [True, False]


# properties

HISTORY = st.lists(st.sampled_from(["worked", "failed", "recovered"]), max_size=30)
NODES = st.lists(
    st.tuples(st.floats(0, 100), st.booleans(), st.integers(0, 1000), st.none() | st.floats(0, 1e4), HISTORY),
    max_size=12,
)


@st.composite
def pools(draw: st.DrawFn) -> list[Candidate]:
    made = []
    for n, (score, healthy, load, latency, history) in enumerate(draw(NODES)):
        one = candidate(f"jp{n:06x}", load, score=score, healthy=healthy, latency_ms=latency)
        for event in history:
            one.worked(0.01) if event == "worked" else getattr(one, event)(NOW)
        made.append(one)
    return made


@settings(deadline=None)
@given(pools(), st.sampled_from(ALL), st.randoms(use_true_random=False), st.floats(0, 400), st.data())
def test_a_choice_is_one_of_those_left_and_at_most_half_are_out(
    pool: list[Candidate], strategy: Strategy, rng: random.Random, passed: float, data: st.DataObject
) -> None:
    now = NOW + passed
    out = left_out(pool, now)
    assert len(out) <= len(pool) // 2
    assert all(one.out_until > now or not one.healthy for one in out)
    kept = [one for one in pool if one not in out]
    assert balance.in_panic(pool, now) is any(one.out_until > now or not one.healthy for one in kept)
    made = Group(pool, out, strategy)
    tried = data.draw(st.sets(st.sampled_from([one.id for one in pool]))) if pool else set()
    chosen = made.choose(rng, now, tried)
    if chosen is None:
        assert {one.id for one in pool} <= tried
    else:
        assert chosen in pool
        assert chosen.id not in tried
        assert chosen not in out or {one.id for one in pool if one not in out} <= tried


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["worked", "failed"]), st.floats(0, 500)), max_size=60))
def test_an_ejection_takes_30_to_300_seconds(events: list[tuple[str, float]]) -> None:
    one, now = candidate("jp000001"), NOW
    for event, passed in events:
        now += passed
        if event == "worked":
            one.worked(0.01)
        elif one.failed(now):
            assert 30 - 1e-6 <= one.out_until - now <= 300 + 1e-6  # what floats lose
            assert one.warm_at == one.out_until + 30
        assert 0.1 <= one.share(now) <= 1

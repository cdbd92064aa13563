import random
import subprocess
import sys
from collections import Counter

import pytest

from gateway.balance import Candidate, choose, pick_sticky
from health.model import Strategy

ALL = list(Strategy)


def nodes(*in_flight: int, score: float = 80.0) -> list[Candidate]:
    return [Candidate(f"jp00000{n}", score, in_flight=load) for n, load in enumerate(in_flight)]


def shares(candidates: list[Candidate], strategy: Strategy, rounds: int = 20_000) -> dict[str, float]:
    rng = random.Random(7)
    picked = Counter(_node(choose(candidates, strategy, rng=rng, counter=turn)) for turn in range(rounds))
    return {candidate.node: picked[candidate.node] / rounds for candidate in candidates}


def _node(chosen: Candidate | None) -> str:
    assert chosen is not None
    return chosen.node


@pytest.mark.parametrize("strategy", ALL)
def test_nothing_and_one(strategy: Strategy) -> None:
    rng = random.Random(1)
    assert choose([], strategy, rng=rng) is None
    only = Candidate("jp000001", 0.0, healthy=False)
    assert choose([only], strategy, rng=rng) == only
    assert choose([only], strategy, rng=rng, exclude={"jp000001"}) is None


@pytest.mark.parametrize("strategy", ALL)
def test_an_unhealthy_node_is_used_only_where_no_healthy_one_is_left(strategy: Strategy) -> None:
    sick = [Candidate(f"jp00000{n}", 100.0, healthy=False, latency_ms=1) for n in range(3)]
    well = Candidate("jp00000a", 1.0, in_flight=500, latency_ms=900)
    rng = random.Random(1)
    for counter in range(50):
        assert choose([*sick, well], strategy, rng=rng, counter=counter) == well
        assert choose([*sick, well], strategy, rng=rng, counter=counter, exclude=[well.node]) in sick


@pytest.mark.parametrize("strategy", ALL)
def test_nodes_already_tried_are_not_chosen_again(strategy: Strategy) -> None:
    candidates = nodes(0, 0, 0)
    rng = random.Random(1)
    tried: set[str] = set()
    for counter in range(3):
        tried.add(_node(choose(candidates, strategy, rng=rng, counter=counter, exclude=tried)))
    assert len(tried) == 3
    assert choose(candidates, strategy, rng=rng, exclude=tried) is None


def test_round_robin_goes_round_whatever_the_order() -> None:
    candidates, rng = nodes(9, 0, 5), random.Random(1)
    turns = [_node(choose(candidates[::-1], Strategy.ROUND_ROBIN, rng=rng, counter=turn)) for turn in range(6)]
    assert turns == ["jp000000", "jp000001", "jp000002"] * 2


def test_least_connections_takes_the_idlest_and_is_fair_among_equals() -> None:
    shared = shares(nodes(4, 2, 2, 3), Strategy.LEAST_CONNECTIONS)
    assert shared["jp000000"] == shared["jp000003"] == 0
    assert shared["jp000001"] == pytest.approx(0.5, abs=0.02)


def test_random_is_fair() -> None:
    assert all(share == pytest.approx(0.25, abs=0.02) for share in shares(nodes(9, 1, 0, 5), Strategy.RANDOM).values())


def test_weighted_latency_goes_by_the_inverse() -> None:
    candidates = [
        Candidate("jp000000", 50.0, latency_ms=10),
        Candidate("jp000001", 50.0, latency_ms=20),
        Candidate("jp000002", 50.0, latency_ms=20),
        Candidate("jp000003", 50.0),  # not measured: counts as the slowest
        Candidate("jp000004", 50.0, latency_ms=20),
    ]
    shared = shares(candidates, Strategy.WEIGHTED_LATENCY)
    assert shared["jp000000"] == pytest.approx(1 / 3, abs=0.02)
    assert all(shared[f"jp00000{n}"] == pytest.approx(1 / 6, abs=0.02) for n in range(1, 5))


def test_weighted_latency_without_any_measurement_is_fair() -> None:
    shared = shares(nodes(0, 0), Strategy.WEIGHTED_LATENCY)
    assert shared["jp000000"] == pytest.approx(0.5, abs=0.02)


def test_a_latency_of_nothing_does_not_take_all() -> None:
    candidates = [Candidate("jp000000", 50.0, latency_ms=0.0), Candidate("jp000001", 50.0, latency_ms=1.0)]
    assert shares(candidates, Strategy.WEIGHTED_LATENCY)["jp000000"] == pytest.approx(0.5, abs=0.02)


def test_two_choices_are_fair_with_descending_loads() -> None:
    """Of four, the idlest is drawn in half of all pairs, and wins each; a biased draw gives it less."""
    shared = shares(nodes(40, 30, 20, 10), Strategy.HEALTH_SCORE)
    expected = {"jp000000": 0.0, "jp000001": 1 / 6, "jp000002": 1 / 3, "jp000003": 1 / 2}
    assert shared == pytest.approx(expected, abs=0.02)


def test_two_choices_are_fair_among_equals() -> None:
    assert all(
        share == pytest.approx(0.2, abs=0.02) for share in shares(nodes(*[3] * 5), Strategy.HEALTH_SCORE).values()
    )


def test_half_the_score_carries_half_the_connections() -> None:
    loads = {"jp000001": 0, "jp000002": 0}
    rng = random.Random(3)
    for _ in range(300):
        candidates = [
            Candidate("jp000001", 99.0, in_flight=loads["jp000001"]),
            Candidate("jp000002", 49.0, in_flight=loads["jp000002"]),
        ]
        loads[_node(choose(candidates, Strategy.HEALTH_SCORE, rng=rng))] += 1
    assert loads == {"jp000001": 200, "jp000002": 100}


def test_a_session_stays_whatever_order_load_and_score() -> None:
    candidates = nodes(0, 0, 0, 0)
    first = pick_sticky("alice:a", candidates)
    busy = [Candidate(c.node, 1.0, healthy=False, in_flight=99) for c in candidates]
    assert _node(first) == _node(pick_sticky("alice:a", busy[::-1]))
    assert pick_sticky("alice:a", []) is None


def test_only_the_sessions_of_a_node_that_left_move() -> None:
    candidates = nodes(*[0] * 5)
    gone = candidates[2].node
    for n in range(500):
        before, after = pick_sticky(f"s{n}", candidates), pick_sticky(f"s{n}", candidates, exclude={gone})
        assert _node(before) == _node(after) or _node(before) == gone


def test_sessions_spread_evenly() -> None:
    picked = Counter(_node(pick_sticky(f"session {n}", nodes(*[0] * 4))) for n in range(4000))
    assert all(900 < count < 1100 for count in picked.values())


def test_another_process_picks_the_same_node() -> None:
    program = (
        "from gateway.balance import *\n"
        "print(*(pick_sticky(f's{n}', [Candidate(f'jp00000{i}', 1.0) for i in range(5)]).node for n in range(50)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == [_node(pick_sticky(f"s{n}", nodes(*[0] * 5))) for n in range(50)]

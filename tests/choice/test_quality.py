"""How good the choice is, by simulation: against an oracle, against the usual policies, and among equals."""

import pytest

from health.model import Strategy
from tests.choice.simulation import Exit, World, oracle

BLIND = {
    name.value: {"strategy": name, "informed": False}
    for name in (Strategy.ROUND_ROBIN, Strategy.RANDOM, Strategy.LEAST_CONNECTIONS)
}


def troubled() -> list[Exit]:
    """Ten nodes: one slow, one that fails every fifth dial, one that goes black after 40 s."""
    exits = [Exit(f"jp{n:06x}") for n in range(10)]
    exits[2].slower_ms = 500.0
    exits[5].failing = 0.2
    exits[7].dies_at = 40.0
    return exits


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("rate", [50.0, 200.0, 400.0])
def test_p99_is_within_a_fifth_of_an_oracles(rate: float, seed: int) -> None:
    ours = World(troubled(), rate=rate, seed=seed).run(120)
    best = World(troubled(), rate=rate, seed=seed, oracle=oracle).run(120)
    assert ours.percentile(0.99) < 1.2 * best.percentile(0.99)
    assert not ours.panic


@pytest.mark.parametrize("seed", [1, 2])
def test_p99_is_far_ahead_of_the_usual_policies(seed: int) -> None:
    ours = World(troubled(), seed=seed).run(120).percentile(0.99)
    others = {name: World(troubled(), seed=seed, **policy).run(120).percentile(0.99) for name, policy in BLIND.items()}
    assert {name: time for name, time in others.items() if ours > time / 4} == {}


def test_other_strategies_that_leave_out_the_same_nodes_are_not_ahead() -> None:
    ours = World(troubled()).run(120).percentile(0.99)
    for name in BLIND:
        assert ours <= World(troubled(), strategy=Strategy(name)).run(120).percentile(0.99)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("rate", [5.0, 50.0, 400.0])
def test_equal_nodes_share_alike_and_keep_their_state_under_noise(rate: float, seed: int) -> None:
    """Dials vary by half, one in 50 takes five times as long, one in 100 fails."""
    minutes = 5 if rate < 400 else 3  # which is more connections all the same
    equal = [Exit(f"jp{n:06x}", noise=0.4, spike_every=50, failing=0.01) for n in range(10)]
    world = World(equal, rate=rate, seed=seed).run(60 * minutes)
    assert max(world.share(one.id, 0, 60 * minutes) for one in equal) < 2 / 10
    for minute in range(minutes):
        assert max(world.share(one.id, 60 * minute, 60 * (minute + 1)) for one in equal) < 2 / 10
    assert max(world.changes.values()) < minutes


@pytest.mark.parametrize("nodes", [2, 3, 10])
@pytest.mark.parametrize("latency_ms", [2.0, 50.0])
@pytest.mark.parametrize(("rate", "hold_s"), [(20.0, 0.2), (20.0, 5.0), (200.0, 0.2)])
def test_a_slow_node_loses_its_share_within_5_s_and_has_it_again_30_s_after(
    nodes: int, latency_ms: float, rate: float, hold_s: float
) -> None:
    exits = [Exit(f"jp{n:06x}", latency_ms=latency_ms) for n in range(nodes)]
    exits[0].slower_ms, exits[0].slow = 500.0, (60.0, 120.0)
    world = World(exits, rate=rate, hold_s=hold_s).run(180)

    def share(first: float, last: float) -> float:
        return world.share("jp000000", first, last) * nodes

    assert share(20, 60) == pytest.approx(1, abs=0.35)
    assert share(64, 70) < 0.5
    assert share(64, 120) < 0.5
    # The 10 s around the thirtieth second: at 20 connections a second and 10 nodes that is two a second.
    assert share(145, 155) > 0.5
    assert share(150, 180) == pytest.approx(1, abs=0.35)

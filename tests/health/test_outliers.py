"""Who is left out of a pool, for how long, and how many at most."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.outliers import FAILURES, LATENCY, Member, Outliers


def pool(*latencies: float, dials: float = 200.0, **last: Any) -> list[Member]:
    """Nodes a, b, c, …; `last` is true of the last one alone."""
    made = [Member("abcdefghij"[n], True, 90.0, latency, 0.0, dials) for n, latency in enumerate(latencies)]
    if last:
        given = {"healthy": True, "value": 40.0, "latency_ms": made[-1].latency_ms, "failures": 0.0, "dials": dials}
        made[-1] = Member(made[-1].node, **(given | last))
    return made


def out_after(outliers: Outliers, members: list[Member], looks: int, first: float = 0.0) -> dict[str, str]:
    return dict([outliers.judge(members, first + look) for look in range(looks)][-1].out)


def test_a_slow_one_is_out_after_three_looks_and_back_after_two() -> None:
    outliers, slow, well = Outliers(), pool(50, 50, 50, 50, 550), pool(50, 50, 50, 50, 60)
    assert out_after(outliers, slow, 2) == {}
    assert out_after(outliers, slow, 1) == {"e": LATENCY}
    assert out_after(outliers, well, 1) == {"e": LATENCY}
    assert out_after(outliers, well, 1) == {}


@pytest.mark.parametrize(("latency", "leaves", "stays"), [(151, True, True), (149, False, True), (99, False, False)])
def test_it_takes_more_to_leave_than_to_stay_out(latency: float, leaves: bool, stays: bool) -> None:
    members = pool(50, 50, 50, 50, latency)
    assert bool(out_after(Outliers(), members, 5)) is leaves
    outliers = Outliers()
    outliers.restore("e", LATENCY, 0.0)
    assert bool(out_after(outliers, members, 5)) is stays


@pytest.mark.parametrize(
    "members",
    [
        pool(50, 50, 50, 550),
        pool(50, 50, 50, 50, 550, dials=19),
        pool(2, 2, 2, 2, 90),
        pool(50, 50, 50, 550, 600),
        pool(500, 510, 520, 530, 540),
        pool(50, 50, 50, 50, 550, latency_ms=None),
    ],
    ids=["four nodes", "99 dials", "not much slower", "the median too", "all alike", "not measured by an agent"],
)
def test_no_outlier_by_latency(members: list[Member]) -> None:
    out = out_after(Outliers(), members, 10)
    assert out == ({} if len(members) < 5 or members[3].latency_ms != 550 else {"d": LATENCY, "e": LATENCY})


def test_one_that_fails_is_out_for_half_a_minute_and_then_for_longer() -> None:
    outliers, members = Outliers(), pool(*[50] * 5, failures=0.2)
    times, now = [], 0.0
    for _ in range(6):
        assert out_after(outliers, members, 1, now) == {"e": FAILURES}
        began = now
        while outliers.judge(pool(*[50] * 5), now).out:
            now += 1
        times.append(now - began)
    assert times == [30, 60, 120, 240, 300, 300]
    now += 3000
    assert outliers.judge(members, now).out
    assert not outliers.judge(pool(*[50] * 5), now + 30).out


@pytest.mark.parametrize(
    "members",
    [
        pool(*[50] * 4, failures=0.9),
        pool(*[50] * 5, failures=0.9, dials=99),
        pool(*[50] * 5, failures=0.1),
        [Member(name, True, 90.0, 50.0, 0.2, 200.0) for name in "abcd"] + [Member("e", True, 90.0, 50.0, 0.5, 200.0)],
    ],
    ids=["four nodes", "few dials", "no more than a tenth", "its neighbours fail, too"],
)
def test_no_outlier_by_failures(members: list[Member]) -> None:
    assert out_after(Outliers(), members, 10) == {}


def test_at_most_half_is_out_and_the_rest_is_panic() -> None:
    outliers = Outliers()
    members = pool(50, 50, 50, 50, 50, 50, 550, 600, 650)
    unhealthy = [Member(f"x{n}", False, 10.0) for n in range(3)]
    verdict = [outliers.judge([*members, *unhealthy], look) for look in range(5)][-1]
    assert (len(verdict.out), verdict.panic) == (3, False)
    more = [*unhealthy, *(Member(f"y{n}", False, 10.0) for n in range(2))]
    verdict = [outliers.judge([*members, *more], look) for look in range(5)][-1]
    assert (len(verdict.out), verdict.panic) == (2, True)


def test_the_one_of_a_pool_of_one_is_never_out_and_that_is_panic() -> None:
    assert Outliers().judge([Member("a", True, 90.0)], 0.0).panic is False
    verdict = Outliers().judge([Member("a", False, 0.0)], 0.0)
    assert (dict(verdict.out), verdict.panic) == ({}, True)
    outliers = Outliers()
    outliers.restore("a", FAILURES, 0.0)
    verdict = outliers.judge([Member("a", True, 90.0)], 1.0)
    assert (dict(verdict.out), verdict.panic) == ({}, True)


def test_nobody_is_no_panic() -> None:
    assert Outliers().judge([], 0.0).panic is False


def test_what_left_is_forgotten() -> None:
    outliers = Outliers()
    outliers.judge(pool(1, 2, 3), 0.0)
    outliers.keep({"b": None})
    assert outliers._records.keys() == {"b"}


MEMBERS = st.lists(
    st.builds(
        Member,
        node=st.text("abcdefgh", min_size=1, max_size=3),
        healthy=st.booleans(),
        value=st.floats(0, 100),
        latency_ms=st.none() | st.floats(0, 60_000),
        failures=st.floats(0, 1),
        dials=st.floats(0, 1e6),
    ),
    max_size=12,
    unique_by=lambda member: member.node,
)


@given(st.lists(MEMBERS, max_size=8), st.floats(0, 100))
def test_never_more_than_half(looks: list[list[Member]], apart: float) -> None:
    outliers = Outliers()
    for n, members in enumerate(looks):
        verdict = outliers.judge(members, n * apart)
        unhealthy = {member.node for member in members if not member.healthy}
        assert not unhealthy & verdict.out.keys()
        assert len(verdict.out) <= max(len(members) // 2 - len(unhealthy), 0)
        assert verdict.panic or len(unhealthy) <= len(members) // 2

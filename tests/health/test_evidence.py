"""What the gateways say, taken together: sums, fading, and those who lie."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.evidence import FADE_S, FORGET_S, Evidence, Seen
from health.report import Counts, Report

NODE = "jp000001"
KNOWN = {NODE, "jp000002"}


class Fleet:
    """Gateways that tell once a second. `tell` takes what was counted since the last time, by worker."""

    def __init__(self, *, gateways: Mapping[str, str] | None = None) -> None:
        self.gateways = gateways or {}
        self.evidence = Evidence()
        self.now = 0.0
        self.sums: dict[str, Counts] = {}

    def tell(self, *, passed: float = 1.0, **new: Counts) -> Seen:
        self.now += passed
        for worker, more in new.items():
            old = self.sums.get(worker, Counts())
            summed = [a + b for a, b in zip(old[:7], more[:7], strict=True)]
            turned_away = old.turned_away + more.turned_away
            self.sums[worker] = Counts(*summed, more.in_flight, more.quickest_ms, turned_away)  # type: ignore[arg-type]
        self.evidence.take(self.reports(), KNOWN, self.now)
        return self.evidence.seen(NODE)

    def reports(self) -> list[Report]:
        return [
            Report.load(Report(worker=f"{n:016x}", gateway=self.gateways.get(w, w), nodes={NODE: c}).dump())
            for n, (w, c) in enumerate(self.sums.items())
        ]

    def begin(self, *workers: str) -> "Fleet":
        self.tell(**{worker: Counts() for worker in workers})
        return self


def counts(good: int, bad: int = 0, **fields: float) -> Counts:
    return Counts(reached=good, node_failures=bad, **fields)  # type: ignore[arg-type]


def test_nothing_was_seen() -> None:
    assert Evidence().seen(NODE) == Seen()


def test_workers_and_gateways_add_up() -> None:
    fleet = Fleet(gateways={"a1": "a", "a2": "a", "b1": "b"}).begin("a1", "a2", "b1")
    seen = fleet.tell(
        a1=counts(20, 10, dial_ms=1000.0, in_flight=3, target_failures=4),
        a2=counts(40, 20, dial_ms=2000.0, in_flight=4, client_failures=2),
        b1=counts(60, 30, dial_ms=3000.0, in_flight=5, first_bytes=60, first_byte_ms=600.0),
    )
    assert (seen.dials, seen.in_flight, seen.target_failures, seen.client_failures) == (180, 12, 4, 2)
    assert seen.failures == pytest.approx(1 / 3)
    assert (seen.dial_ms, seen.first_byte_ms) == (50, 10)


def test_a_report_read_twice_counts_once_and_a_lost_one_is_made_up_for() -> None:
    fleet = Fleet().begin("a")
    assert fleet.tell(a=counts(50)).dials == 50
    assert fleet.tell(passed=0.0).dials == 50
    fleet.sums["a"] = counts(80)  # nobody read it
    assert fleet.tell(passed=0.0, a=counts(20)).dials == 100


def test_it_fades() -> None:
    fleet = Fleet().begin("a")
    fleet.tell(a=counts(100, 100))
    seen = fleet.tell(passed=FADE_S)
    assert (seen.dials, seen.failures) == (pytest.approx(200 / math.e), 0.5)
    assert fleet.tell(passed=60 * FADE_S) == Seen()


def test_few_dials_say_little() -> None:
    fleet = Fleet().begin("a")
    assert fleet.tell(a=counts(0, 1)).failures == 1 / 20
    assert fleet.tell(passed=0.0, a=counts(0, 19)).failures == 1


def test_what_a_worker_counted_before_it_was_heard_of_is_not_new() -> None:
    fleet = Fleet()
    assert fleet.tell(a=counts(0, 1000)).dials == 0
    assert fleet.tell(a=counts(1, 0)).dials == 1


def test_a_worker_that_begins_anew_is_not_counted_twice() -> None:
    fleet = Fleet().begin("a")
    fleet.tell(a=counts(0, 100))
    fleet.sums["a"] = Counts()  # a liar: a worker that restarts has another name
    assert fleet.tell(passed=0.0).dials == 100
    assert fleet.evidence.ignored["backwards"] == 1
    assert fleet.tell(passed=0.0, a=counts(5)).dials == 105


def test_the_quickest_of_five() -> None:
    fleet = Fleet().begin("a")
    assert fleet.tell(a=counts(4, quickest_ms=80.0)).quickest_ms is None
    assert fleet.tell(a=counts(1, quickest_ms=900.0)).quickest_ms == 80
    assert fleet.tell(a=counts(5, quickest_ms=900.0)).quickest_ms == 900
    assert fleet.tell().quickest_ms is None


def test_an_unknown_node_is_counted_and_ignored() -> None:
    evidence = Evidence()
    for reached in (0, 50):
        told = Report(worker="0" * 16, gateway="g", nodes={"us000001": counts(reached, reached)})
        evidence.take([told], KNOWN, 0.0)
    assert evidence.seen("us000001") == Seen()
    assert evidence.ignored["unknown_node"] == 2


@pytest.mark.parametrize("lie", [counts(0, 100_000), counts(0, 50, dial_ms=1e12)])
def test_a_gateway_that_lies_alone_moves_nothing(lie: Counts) -> None:
    honest = {"a": counts(100, 2, quickest_ms=40.0), "b": counts(100, 2, quickest_ms=50.0)}
    without = Fleet().begin("a", "b").tell(**honest)
    fleet = Fleet().begin("a", "b", "liar")
    with_it = fleet.tell(**honest, liar=lie)
    assert (with_it.failures, with_it.quickest_ms) == (without.failures, without.quickest_ms)
    assert fleet.evidence.ignored["alone"] == 1


def test_of_two_that_differ_the_one_in_the_nodes_favour_counts() -> None:
    assert Fleet().begin("a", "b").tell(a=counts(200), b=counts(0, 200)).failures == 0
    assert Fleet().begin("a", "b").tell(a=counts(0, 200), b=counts(5)).failures == 1, "five dials are no opinion"


def test_a_node_that_answers_nobody() -> None:
    fleet = Fleet().begin("a", "b")
    assert fleet.tell(a=counts(50), b=counts(50)).answered == 0
    assert Fleet().begin("a").tell(a=counts(50, first_bytes=25, first_byte_ms=5.0)).answered == 0.5
    assert fleet.tell(a=counts(0), b=counts(50, first_bytes=100, first_byte_ms=5.0)).answered == 1


def test_who_is_turned_away_was_answered() -> None:
    assert Fleet().begin("a").tell(a=counts(40, turned_away=30)).answered == 0.75
    assert Fleet().begin("a").tell(a=counts(40, turned_away=30, first_bytes=10)).answered == 1


def test_workers_and_nodes_that_left_hold_no_memory() -> None:
    evidence = Evidence()
    for n in range(300):
        nodes = {f"jp{n:06x}": counts(n)}
        evidence.take([Report(worker=f"{n:016x}", gateway=f"g{n}", nodes=nodes)], set(nodes), n * 1.0)
        evidence.take([Report(worker=f"{n:016x}", gateway=f"g{n}", nodes={k: counts(n + 9) for k in nodes})], nodes, n)
    evidence.take([], set(), 300 + FORGET_S)
    assert (evidence._workers, evidence._tallies, evidence._seen) == ({}, {}, {})


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=8))
def test_shares_are_shares(told: list[tuple[int, int, int]]) -> None:
    workers = [f"w{n}" for n in range(len(told))]
    new = {w: counts(good, bad, first_bytes=first) for w, (good, bad, first) in zip(workers, told, strict=True)}
    seen = Fleet().begin(*workers).tell(**new)
    assert 0 <= seen.failures <= 1
    assert seen.answered is None or 0 <= seen.answered <= 1
    assert seen.dials >= 0

"""Who may be chosen, and that the lists chosen from are never out of date."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import balance, pools, roster
from gateway.links import VpnLink
from gateway.pools import Fleet
from gateway.stock import Budget
from gateway.want import Want
from gateway.wire.base import WireError
from health.model import Node, NodeStatus, Pool, Strategy, User
from health.reasons import Reason
from tests.gateway.stub_fleet import StubFleet, node, score

JP = Want(country="jp")
TWO = [node("jp000001"), node("jp000002")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    made = Clock()
    monkeypatch.setattr(pools, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


class Clock:
    """Monotonic seconds that pass when told to."""

    now = 1000.0


def chosen(fleet: Fleet, want: Want = JP, rounds: int = 40, tried: Iterable[str] = ()) -> Counter[str]:
    return Counter(fleet.choose(want, "", tried=set(tried)).node.id for _ in range(rounds))


def fail(fleet: Fleet, node_id: str, times: int = 5) -> None:
    for _ in range(times):
        fleet.failed(node_id)


# what can be used


@pytest.mark.parametrize("status", [s for s in NodeStatus if s is not NodeStatus.SERVING])
async def test_only_serving_nodes(status: NodeStatus) -> None:
    with pytest.raises(WireError) as refused:
        StubFleet(node("jp000001", status)).choose(JP, "")
    assert refused.value.reason is Reason.NO_NODE


def test_hard_down_and_unproved_tunnels_are_never_used() -> None:
    fleet = StubFleet(node("jp000001"))
    fleet.link("jp000001").up = False
    assert not fleet.choosable(fleet.snapshot.nodes["jp000001"])
    fleet.link("jp000001").up = True
    fleet.link("jp000001").number = 2
    assert not fleet.choosable(fleet.snapshot.nodes["jp000001"])
    assert fleet.usable == 0
    fleet.take(node("jp000001", generation=2))
    assert fleet.choosable(fleet.snapshot.nodes["jp000001"])
    assert fleet.usable == 1


def test_another_country_only_as_a_listed_fallback() -> None:
    with pytest.raises(WireError):
        StubFleet(node("us000001")).choose(JP, "")
    fallback = Pool(country="jp", fallback=("gb",))
    assert chosen(StubFleet(node("us000001"), node("gb000001"), fallback)).keys() == {"gb000001"}
    assert chosen(StubFleet(node("jp000001"), node("gb000001"), fallback)).keys() == {"jp000001"}


def test_without_a_country_the_best_of_any_that_is_allowed() -> None:
    fleet = StubFleet(node("jp000001"), node("us000001"), node("gb000001"))
    assert chosen(fleet, Want(), 200).keys() == {"jp000001", "us000001", "gb000001"}
    assert {fleet.choose(Want(), "", allowed=("us",)).node.country for _ in range(20)} == {"us"}
    with pytest.raises(WireError):
        fleet.choose(Want(country="jp"), "", allowed=("us",))


def test_a_node_or_a_city() -> None:
    fleet = StubFleet(node("jp000001", city="Tokyo"), node("jp000002", city="Osaka"))
    assert fleet.choose(Want(node="jp000002"), "").node.id == "jp000002"
    assert fleet.choose(Want(country="jp", city="tokyo"), "").node.id == "jp000001"
    with pytest.raises(WireError, match="nagoya"):
        fleet.choose(Want(country="jp", city="nagoya"), "")
    with pytest.raises(WireError, match="jp000003 is not serving"):
        fleet.choose(Want(node="jp000003"), "")


def test_the_better_score_gets_more() -> None:
    fleet = StubFleet(*TWO, score("jp000001", 90), score("jp000002", 30))
    counts = Counter[str]()
    for _ in range(100):
        choice = fleet.choose(JP, "")
        fleet.link(choice.node.id).load += 1
        counts[choice.node.id] += 1
    assert counts == {"jp000001": 75, "jp000002": 25}


def test_in_flight_is_read_when_choosing() -> None:
    fleet = StubFleet(*TWO)
    fleet.link("jp000001").load = 10
    assert chosen(fleet).keys() == {"jp000002"}
    fleet.link("jp000002").load = 20
    assert chosen(fleet).keys() == {"jp000001"}


def test_unhealthy_only_where_nothing_else_is_left() -> None:
    fleet = StubFleet(*TWO, score("jp000001", 10, healthy=False), score("jp000002", 30))
    assert chosen(fleet).keys() == {"jp000002"}
    assert chosen(fleet, tried={"jp000002"}).keys() == {"jp000001"}


def test_a_pool_has_its_strategy_and_its_own_turns() -> None:
    records = [*TWO, node("us000001"), node("us000002"), Pool(country="jp", strategy=Strategy.ROUND_ROBIN)]
    fleet = StubFleet(*records, Pool(country="us", strategy=Strategy.ROUND_ROBIN))
    turns = [fleet.choose(Want(country=country), "").node.id for country in ["jp", "us"] * 4]
    assert Counter(turns) == dict.fromkeys(["jp000001", "jp000002", "us000001", "us000002"], 2)
    fleet.link("jp000001").load = 5
    fleet.take(*records[:4], Pool(country="jp", strategy=Strategy.LEAST_CONNECTIONS))
    assert chosen(fleet).keys() == {"jp000002"}


# the lists are fresh


def test_a_node_that_goes_down_is_out_at_once_without_a_word() -> None:
    fleet = StubFleet(*TWO)
    assert len(chosen(fleet)) == 2
    fleet.link("jp000001").up = False
    assert chosen(fleet).keys() == {"jp000002"}
    fleet.link("jp000002").number = 2
    with pytest.raises(WireError, match="no exit is serving"):
        fleet.choose(JP, "")


def test_a_node_that_comes_up_is_seen_when_told() -> None:
    fleet = StubFleet(*TWO)
    fleet.link("jp000001").up = False
    assert chosen(fleet).keys() == {"jp000002"}
    fleet.link("jp000001").up = True
    fleet.touched()
    assert len(chosen(fleet, rounds=400)) == 2


def test_the_last_node_that_comes_up_is_seen_untold() -> None:
    fleet = StubFleet(node("jp000001"))
    fleet.link("jp000001").up = False
    with pytest.raises(WireError):
        fleet.choose(JP, "")
    fleet.link("jp000001").up = True
    assert fleet.choose(JP, "").node.id == "jp000001"


async def test_a_tunnel_tells_when_its_state_changes() -> None:
    seen: list[tuple[bool, int]] = []
    link = VpnLink(
        "jp000001", "/nowhere.sock", Budget(0), on_change=lambda: seen.append((link.usable, link.generation))
    )
    link._on_state("up", 3)
    assert seen == [(True, 3)]
    link._on_state("down", 3)
    link._on_state("up", 4)
    link._on_close()
    assert seen[1:] == [(False, 3), (True, 4), (False, 4)]
    await link.close()


async def test_nodes_come_and_go_with_the_snapshot() -> None:
    fleet = StubFleet(*TWO)
    assert len(chosen(fleet)) == 2
    fleet.take(TWO[1], node("jp000003"))
    assert chosen(fleet).keys() == {"jp000002", "jp000003"}
    fleet.take(node("jp000002", NodeStatus.DRAINING), node("jp000003"))
    assert chosen(fleet).keys() == {"jp000003"}
    assert fleet.links.keys() == {"jp000002", "jp000003"}
    await fleet.close()
    with pytest.raises(WireError):
        fleet.choose(JP, "")


def test_what_a_fallback_or_a_record_says_counts_at_once() -> None:
    fleet = StubFleet(node("gb000001"))
    with pytest.raises(WireError):
        fleet.choose(JP, "")
    fleet.take(node("gb000001", exit_ip="198.18.0.1"), Pool(country="jp", fallback=("gb",)))
    assert fleet.choose(JP, "").node.exit_ip == "198.18.0.1"
    fleet.take(node("gb000001", exit_ip="198.18.0.2"), Pool(country="jp", fallback=("gb",)))
    assert fleet.choose(JP, "").node.exit_ip == "198.18.0.2"


def test_an_empty_registry_changes_nothing() -> None:
    fleet = StubFleet(node("jp000001"))
    fleet.update(type(fleet.snapshot)(epoch=""))
    assert fleet.choose(JP, "").node.id == "jp000001"


def test_a_node_keeps_its_last_score() -> None:
    fleet = StubFleet(*TWO, score("jp000001", 10, healthy=False), score("jp000002", 30))
    fleet.take(*TWO)
    assert fleet.snapshot.scores.keys() == {"jp000001", "jp000002"}
    assert chosen(fleet).keys() == {"jp000002"}


def test_what_did_not_change_stays_the_same_object() -> None:
    alice, bob = User(name="alice", password_hash="a"), User(name="bob", password_hash="b")
    records = [*TWO, alice, bob, Pool(country="jp"), score("jp000001"), score("jp000002")]
    fleet = StubFleet(*records)
    before, choice = fleet.snapshot, fleet.choose(Want(node="jp000001"), "")
    fleet.take(*records)
    after = fleet.snapshot
    assert after.nodes is before.nodes
    assert after.users is before.users
    assert after.pools is before.pools
    assert after.scores is before.scores
    fleet.take(*TWO, alice, User(name="bob", password_hash="new"), score("jp000001", at=1), score("jp000002"))
    assert fleet.snapshot.users["alice"] is before.users["alice"]
    assert fleet.snapshot.users["bob"].password_hash == "new"
    assert fleet.snapshot.scores["jp000002"] is before.scores["jp000002"]
    assert fleet.snapshot.scores["jp000001"].at == 1
    assert fleet.snapshot.pools == {}
    assert fleet.choose(Want(node="jp000001"), "") is choice


def test_new_scores_alone_make_no_new_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = StubFleet(*TWO, score("jp000001"), score("jp000002"))
    fleet.choose(JP, "")
    made: list[object] = []
    monkeypatch.setattr(roster, "Group", lambda *given, **named: made.append(given) or balance.Group(*given, **named))
    fleet.take(*TWO, score("jp000001", 20, at=1), score("jp000002", 79, at=1))
    fleet.link("jp000002").load = 2
    assert chosen(fleet).keys() == {"jp000002"}, "the new score counts"
    assert made == []
    fleet.take(*TWO, score("jp000001", 20, at=2), score("jp000002", 79, healthy=False, at=2))
    assert chosen(fleet).keys() == {"jp000001"}
    assert len(made) == 1


def test_endlessly_many_wants_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "GROUPS_KEPT", 20)
    fleet = StubFleet(node("jp000001", city="Tokyo"))
    for n in range(100):
        fleet.choose(Want(country="jp", city="t.o.k_y.o" + "." * n), "")
        with pytest.raises(WireError):
            fleet.choose(Want(country="jp", city=f"town{n}"), "")
    assert len(fleet.roster._groups) <= 20


# ejection, slow start, retries


def test_five_failures_put_a_node_out_for_a_while(clock: Clock) -> None:
    fleet = StubFleet(*TWO)
    fail(fleet, "jp000001", 4)
    fleet.roster.worked("jp000001", 0.01)
    fail(fleet, "jp000001", 4)
    assert len(chosen(fleet)) == 2
    fleet.failed("jp000001")
    assert chosen(fleet).keys() == {"jp000002"}
    assert chosen(fleet, tried={"jp000002"}).keys() == {"jp000001"}
    clock.now += 29.9
    assert chosen(fleet).keys() == {"jp000002"}
    clock.now += 30.2
    assert chosen(fleet)["jp000001"] > 10


def test_half_of_a_pool_stays_and_a_pool_of_one(clock: Clock) -> None:
    fleet = StubFleet(*TWO, node("us000001"))
    for node_id in fleet.links:
        fail(fleet, node_id)
    assert len(chosen(fleet)) == 1
    assert chosen(fleet, Want(country="us")).keys() == {"us000001"}
    assert len(chosen(fleet, Want(), 400)) == 2
    assert fleet.roster.panic(clock.now) == {"jp": True, "us": True}


def test_panic_is_more_than_half_of_those_that_could_be_used(clock: Clock) -> None:
    fleet = StubFleet(*TWO, node("us000001"))
    assert fleet.roster.panic(clock.now) == {"jp": False, "us": False}
    fail(fleet, "jp000001")
    assert not fleet.roster.panic(clock.now)["jp"], "half of them is left out"
    fleet.link("jp000002").up = False
    fleet.touched()
    assert fleet.roster.panic(clock.now)["jp"], "the only one left"
    clock.now += balance.EJECT_S[0] + 1
    assert not fleet.roster.panic(clock.now)["jp"]


def test_a_city_whose_only_node_is_ejected_is_served_by_it(clock: Clock) -> None:
    fleet = StubFleet(node("jp000001", city="Tokyo"), node("jp000002", city="Osaka"))
    fail(fleet, "jp000001")
    assert chosen(fleet).keys() == {"jp000002"}
    assert chosen(fleet, Want(city="tokyo")).keys() == {"jp000001"}


def test_failures_of_a_node_that_is_down_are_not_held_against_it(clock: Clock) -> None:
    fleet = StubFleet(*TWO)
    fleet.link("jp000001").up = False
    fleet.touched()
    fail(fleet, "jp000001", 50)
    fleet.link("jp000001").up = True
    fleet.touched()
    clock.now += 30
    assert chosen(fleet)["jp000001"] > 10


def test_a_recovered_node_starts_slowly_and_a_new_one_does_not(clock: Clock) -> None:
    fleet = StubFleet(*TWO)
    fleet.link("jp000001").up = False
    fleet.touched()
    fleet.link("jp000001").up = True
    fleet.touched()
    fleet.take(*TWO, node("jp000003"))
    fleet.link("jp000002").load = 1000
    fleet.link("jp000003").load = 1000
    assert chosen(fleet, rounds=1000)["jp000001"] < 100  # 2/3 of all pairs have it; a tenth of these
    clock.now += 30
    assert 600 < chosen(fleet, rounds=1000)["jp000001"] < 730
    assert fleet.roster.seats["jp000003"].share(clock.now) == 1


def test_a_node_that_connects_late_at_start_does_not_start_slowly(clock: Clock) -> None:
    fleet = StubFleet(node("jp000001", NodeStatus.VERIFYING), node("jp000002"))
    fleet.take(*TWO)
    assert fleet.roster.seats["jp000001"].share(clock.now) == 1
    assert chosen(fleet)["jp000001"] > 10


def test_becoming_healthy_is_a_recovery(clock: Clock) -> None:
    fleet = StubFleet(*TWO, score("jp000001", healthy=False), score("jp000002"))
    assert fleet.roster.seats["jp000001"].share(clock.now) == 1
    fleet.take(*TWO, score("jp000001"), score("jp000002"))
    assert fleet.roster.seats["jp000001"].share(clock.now) == 0.1


def test_outliers_are_judged_once_in_a_window(clock: Clock) -> None:
    records = [node(f"jp{n:06x}") for n in range(5)]
    fleet = StubFleet(*records)
    for name in fleet.links:
        for turn in range(120):
            fleet.failed(name) if name == "jp000003" and turn % 3 == 0 else fleet.roster.worked(name, 0.01)
    fleet.take(*records)
    assert len(chosen(fleet, rounds=400)) == 5
    clock.now += balance.WINDOW_S
    fleet.take(*records)
    assert chosen(fleet, rounds=400).keys() == {"jp000000", "jp000001", "jp000002", "jp000004"}


def test_nodes_unknown_are_not_judged() -> None:
    fleet = StubFleet()
    fleet.failed("jp000001")
    fleet.roster.worked("jp000001", 0.01)


def test_retries_have_a_budget() -> None:
    fleet = StubFleet(*TWO)
    assert [fleet.may_retry(10) for _ in range(4)] == [True, True, True, False]
    fleet.retried()
    assert fleet.may_retry(10)
    fleet.link("jp000001").load = 7
    fleet.link("jp000002").load = 5
    assert fleet.in_flight == 12


def test_others_are_those_left_to_try() -> None:
    fleet = StubFleet(*TWO)
    assert fleet.others(JP, (), {"jp000001"})
    assert not fleet.others(JP, (), {"jp000001", "jp000002"})
    assert not fleet.others(Want(country="jp", session="s", strict=True), (), {"jp000001"})


# properties

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["down", "up", "generation", "failed", "unhealthy", "healthy", "touched", "later", "drain"]),
        st.integers(0, 5),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(events=EVENTS, strategy=st.sampled_from(list(Strategy)))
def test_whatever_happens_only_ready_nodes_are_chosen_and_some_one_while_there_is_one(
    events: list[tuple[str, int]], strategy: Strategy
) -> None:
    names = ["jp000000", "jp000001", "jp000002", "jp000003", "us000000", "us000001"]
    records: dict[str, Node] = {name: node(name) for name in names}
    healthy = dict.fromkeys(names, True)
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "time", SimpleNamespace(monotonic=lambda: clock.now))
        fleet = StubFleet(*records.values(), Pool(country="jp", strategy=strategy))
        for event, which in events:
            name = names[which]
            link = fleet.link(name)
            if event in ("down", "up"):
                link.up = event == "up"
            elif event == "generation":
                link.number += 1
            elif event == "failed":
                fail(fleet, name)
            elif event == "touched":
                fleet.touched()
            elif event == "later":
                clock.now += which * 20
            else:
                healthy[name] = event != "unhealthy"
                if event == "drain":
                    records[name] = node(name, NodeStatus.DRAINING)
                fleet.take(
                    *records.values(),
                    *(score(n, healthy=ok) for n, ok in healthy.items()),
                    Pool(country="jp", strategy=strategy),
                )
            for want in (JP, Want(), Want(country="us"), Want(country="jp", session=f"s{which}")):
                ready = [
                    n
                    for n, record in records.items()
                    if want.country in (None, record.country)
                    and record.status is NodeStatus.SERVING
                    and fleet.link(n).up
                    and fleet.link(n).number == record.generation
                ]
                tried = set(ready[:which])
                if set(ready) <= tried:
                    with pytest.raises(WireError):
                        fleet.choose(want, "", tried=tried)
                else:
                    picked = fleet.choose(want, "", tried=tried)
                    assert picked.node.id in set(ready) - tried
                    assert picked.link is fleet.links[picked.node.id]
    asyncio.run(fleet.close())


def test_a_choice_is_cheap() -> None:
    """About 2 µs where this was written; the bound only catches what is made anew for each connection."""
    fleet = StubFleet(*(node(f"jp{n:06x}") for n in range(10)))
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(2000):
            fleet.choose(JP, "")
        best = min(best, (time.process_time() - started) / 2000)
    assert best < 15e-6

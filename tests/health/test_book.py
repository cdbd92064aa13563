"""What the scorer makes of one reading after the other; the whole of it with a real Redis is in test_scorer."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest

from health.book import Book
from health.model import Node, Sample, Tunnel
from health.outliers import FAILURES, LATENCY
from health.registry.reports import Told
from health.report import Counts, Report

MakeNode = Callable[..., Node]
WALL = 1_800_000_000.0


class Fleet:
    """Nodes of one country, looked at once a second; `samples` says how they are, `dials` what gateways count."""

    def __init__(self, make_node: MakeNode, count: int, **fields: Any) -> None:
        self.nodes = {f"jp{n:06x}": make_node(f"jp{n:06x}", **fields) for n in range(count)}
        self.book = Book()
        self.now = 0.0
        self.sums: dict[str, list[float]] = {}
        self.collector = frozenset({"m1"})
        for node in self.nodes:
            self.book.begin(node, None, 0.0)

    def look(
        self,
        times: int = 1,
        samples: Mapping[str, Mapping[str, Any]] | None = None,
        dials: Mapping[str, tuple[int, int, int]] | None = None,
        skew: float = 0.0,
    ) -> None:
        """`dials`: a node's successes, failures and first bytes in each second; `samples`: what is not as ever."""
        for _ in range(times):
            self.now += 1
            for node, counts in (dials or {}).items():
                self.sums[node] = [a + b for a, b in zip(self.sums.get(node, [0, 0, 0]), counts, strict=True)]
            told = Told(
                {node: self.sample(node, skew, (samples or {}).get(node, {})) for node in self.nodes},
                frozenset(),
                self.collector,
                (self.report(),),
            )
            self.book.look(self.nodes, told, self.now, WALL + self.now)

    def sample(self, node: str, skew: float, fields: Mapping[str, Any]) -> Sample:
        given = {"reachable": True, "tunnel": Tunnel.UP, "kill_switch": True, "probe_ms": 50.0}
        return Sample(node=node, at=WALL + self.now + skew, **(given | fields))  # type: ignore[arg-type]

    def report(self) -> Report:
        nodes = {
            node: Counts(reached=int(good), node_failures=int(bad), first_bytes=int(first))
            for node, (good, bad, first) in self.sums.items()
        }
        return Report(worker="0" * 16, gateway="m1:7", nodes=nodes)

    @property
    def ejected(self) -> dict[str, str]:
        return {score.node: score.ejected for score in self.book.scores if score.ejected}

    def value(self, node: str) -> float:
        return next(score.value for score in self.book.scores if score.node == node)


def all_dial(fleet: Fleet, *, failing: str = "", mute: str = "") -> dict[str, tuple[int, int, int]]:
    return {node: (30, 15 if node == failing else 0, 0 if node == mute else 30) for node in fleet.nodes}


def test_an_outlier_is_left_out_and_comes_back(make_node: MakeNode) -> None:
    fleet = Fleet(make_node, 5)
    fleet.look(4, {"jp000002": {"probe_ms": 550.0}}, all_dial(fleet))
    assert fleet.ejected == {"jp000002": LATENCY}
    assert not any(fleet.book.panic.values())
    fleet.look(2, dials=all_dial(fleet))
    assert fleet.ejected == {}


def test_a_node_whose_dials_fail_is_left_out(make_node: MakeNode) -> None:
    fleet = Fleet(make_node, 5)
    fleet.look(8, dials=all_dial(fleet, failing="jp000003"))
    assert fleet.ejected == {"jp000003": FAILURES}


def test_hard_down_nodes_are_no_part_of_the_pool(make_node: MakeNode) -> None:
    """Of six, three are down and one is slow: three are left, too few to compare; and no panic, but an outage."""
    fleet = Fleet(make_node, 6)
    down = {node: {"tunnel": Tunnel.DOWN} for node in ("jp000000", "jp000001", "jp000002")}
    fleet.look(6, {**down, "jp000003": {"probe_ms": 900.0}}, all_dial(fleet))
    assert fleet.ejected == {}
    assert fleet.book.panic == {"jp": False}
    fleet.look(6, {node: {"tunnel": Tunnel.DOWN} for node in fleet.nodes})
    assert fleet.book.panic == {}


def test_more_than_half_in_a_bad_way_is_panic(make_node: MakeNode) -> None:
    fleet = Fleet(make_node, 4)
    fleet.look(4, {node: {"loss": 0.5} for node in list(fleet.nodes)[:2]})
    assert fleet.book.panic == {"jp": False}
    fleet.look(4, {node: {"loss": 0.5} for node in list(fleet.nodes)[:3]})
    assert fleet.book.panic == {"jp": True}


def test_what_the_gateways_say_survives_a_new_leader(make_node: MakeNode) -> None:
    fleet = Fleet(make_node, 5)
    fleet.look(8, dials=all_dial(fleet, failing="jp000003"))
    successor = Fleet(make_node, 5)
    for score in fleet.book.scores:
        successor.book.begin(score.node, score, 0.0)
    successor.look(3, dials=all_dial(fleet))
    assert successor.ejected == {"jp000003": FAILURES}


def test_a_node_that_answers_nobody_loses_its_score(make_node: MakeNode) -> None:
    """Its agent sees nothing wrong, and dials work; nothing ever comes back."""
    fleet = Fleet(make_node, 3)
    fleet.look(5, dials=all_dial(fleet, mute="jp000001"))
    assert (fleet.value("jp000001"), fleet.value("jp000000")) == (0, 96.15)
    assert [score.healthy for score in fleet.book.scores] == [True, False, True]


def test_a_mute_node_does_not_come_and_go(make_node: MakeNode) -> None:
    """Left out it is asked nothing, so nothing shows that it is mute still: it returns ever less often."""
    fleet, mute = Fleet(make_node, 3), "jp000001"
    healthy, lost = [], 0
    for _ in range(600):
        used = [score.node for score in fleet.book.scores if score.healthy] or list(fleet.nodes)
        lost += 30 * (mute in used)
        fleet.look(dials={node: (30, 0, 0 if node == mute else 30) for node in used})
        healthy.append(mute in used)
    assert sum(a != b for a, b in pairwise(healthy)) < 10, "a change a minute"
    assert healthy[-60:].count(True) < 5
    assert lost < 600


def test_a_mute_node_returns_once_it_is_answered_and_stays_out_under_a_new_leader(make_node: MakeNode) -> None:
    fleet, mute = Fleet(make_node, 3), "jp000001"
    fleet.look(5, dials=all_dial(fleet, mute=mute))
    successor = Fleet(make_node, 3)
    for score in fleet.book.scores:
        successor.book.begin(score.node, score, 0.0)
    successor.look(10)
    assert (successor.value(mute), fleet.value(mute)) == (0, 0)
    fleet.look(3, dials=all_dial(fleet))
    assert all(score.healthy and score.value > 0 for score in fleet.book.scores)


def test_where_all_or_the_only_one_answer_nobody_it_is_the_targets(make_node: MakeNode) -> None:
    for count in (1, 3):
        fleet = Fleet(make_node, count)
        fleet.look(5, dials=dict.fromkeys(fleet.nodes, (30, 0, 0)))
        assert all(score.value == 96.15 and score.healthy for score in fleet.book.scores)


def test_a_dead_website_is_not_a_dead_tunnel(make_node: MakeNode) -> None:
    """One node, and nothing but dials that the target spoilt."""
    fleet = Fleet(make_node, 1)
    fleet.look(2)
    for _ in range(20):
        fleet.now += 1
        counts = Counts(target_failures=int(fleet.now) * 50, client_failures=int(fleet.now))
        told = Told(
            {"jp000000": fleet.sample("jp000000", 0.0, {})},
            frozenset(),
            fleet.collector,
            (Report(worker="0" * 16, gateway="m1:7", nodes={"jp000000": counts}),),
        )
        fleet.book.look(fleet.nodes, told, fleet.now, WALL + fleet.now)
    (score,) = fleet.book.scores
    assert (score.value, score.healthy) == (96.15, True)
    assert score.seen["target_failures"] > 100


@pytest.mark.parametrize("skew", [3600.0, -3600.0])
def test_a_clock_an_hour_off_ejects_and_expires_nothing(make_node: MakeNode, skew: float) -> None:
    fleet = Fleet(make_node, 5)
    fleet.look(5, dials=all_dial(fleet))
    fleet.look(5, dials=all_dial(fleet), skew=skew)
    fleet.look(5, dials=all_dial(fleet))
    assert all(score.healthy and not score.ejected and score.value == 96.15 for score in fleet.book.scores)
    assert not fleet.book.ignored.get(("sample", "time"))


@pytest.mark.parametrize("skew", [90_000.0, -90_000.0])
def test_a_sample_from_another_day_is_counted_and_moves_nothing(make_node: MakeNode, skew: float) -> None:
    fleet = Fleet(make_node, 2)
    fleet.look(2)
    before = fleet.book.scores
    fleet.look(6, {node: {"loss": 1.0} for node in fleet.nodes}, skew=skew)
    assert fleet.book.scores == before
    assert fleet.book.ignored["sample", "time"] == 12


def test_a_node_that_left_is_forgotten(make_node: MakeNode) -> None:
    fleet = Fleet(make_node, 2)
    fleet.look(2, dials=all_dial(fleet))
    del fleet.nodes["jp000001"]
    fleet.look()
    assert [score.node for score in fleet.book.scores] == ["jp000000"]
    assert "jp000001" not in fleet.book
    assert fleet.book.ignored["report", "unknown_node"] == 1

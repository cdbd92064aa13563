"""Who may be chosen."""

import random
import socket
from collections import Counter

import pytest

from gateway.links import Link
from gateway.pools import Fleet
from gateway.want import Want
from gateway.wire.base import WireError
from health.model import Node, NodeStatus, Pool, Score
from health.reasons import Reason
from health.registry import Snapshot


class StubLink(Link):
    def __init__(self, node_id: str) -> None:
        super().__init__(node_id)
        self.up, self.number = True, 1

    @property
    def usable(self) -> bool:
        return self.up

    @property
    def generation(self) -> int:
        return self.number

    async def take_socket(self, family: str) -> socket.socket:
        raise AssertionError("not asked here")


def node(node_id: str, status: NodeStatus = NodeStatus.SERVING, city: str = "") -> Node:
    return Node(id=node_id, country=node_id[:2], kind="vpn", machine="m", status=status, generation=1, city=city)


def fleet(*nodes: Node, pools: tuple[Pool, ...] = (), scores: tuple[Score, ...] = ()) -> Fleet:
    made = Fleet("m", random.Random(7))
    made.snapshot = Snapshot(
        "epoch",
        {n.id: n for n in nodes},
        {s.node: s for s in scores},
        {p.country: p for p in pools},
    )
    made.links = {n.id: StubLink(n.id) for n in nodes}
    return made


def link(made: Fleet, node_id: str) -> StubLink:
    found = made.links[node_id]
    assert isinstance(found, StubLink)
    return found


@pytest.mark.parametrize("status", [s for s in NodeStatus if s is not NodeStatus.SERVING])
def test_only_serving_nodes(status: NodeStatus) -> None:
    with pytest.raises(WireError) as refused:
        fleet(node("jp000001", status)).choose(Want(country="jp"), "")
    assert refused.value.reason is Reason.NO_NODE


def test_hard_down_and_unproved_tunnels_are_never_used() -> None:
    made = fleet(node("jp000001"))
    link(made, "jp000001").up = False
    assert not made.choosable(made.snapshot.nodes["jp000001"])
    link(made, "jp000001").up = True
    link(made, "jp000001").number = 2
    assert not made.choosable(made.snapshot.nodes["jp000001"])


def test_another_country_only_as_a_listed_fallback() -> None:
    with pytest.raises(WireError):
        fleet(node("us000001")).choose(Want(country="jp"), "")
    made = fleet(node("us000001"), node("gb000001"), pools=(Pool(country="jp", fallback=("gb",)),))
    assert made.choose(Want(country="jp"), "")[0].id == "gb000001"
    made = fleet(node("jp000001"), node("gb000001"), pools=(Pool(country="jp", fallback=("gb",)),))
    assert {made.choose(Want(country="jp"), "")[0].id for _ in range(20)} == {"jp000001"}


def test_without_a_country_the_best_of_any_that_is_allowed() -> None:
    made = fleet(node("jp000001"), node("us000001"), node("gb000001"))
    assert {made.choose(Want(), "")[0].country for _ in range(200)} == {"jp", "us", "gb"}
    assert {made.choose(Want(), "", allowed=("us",))[0].country for _ in range(20)} == {"us"}


def test_a_node_or_a_city() -> None:
    made = fleet(node("jp000001", city="Tokyo"), node("jp000002", city="Osaka"))
    assert made.choose(Want(node="jp000002"), "")[0].id == "jp000002"
    assert made.choose(Want(country="jp", city="tokyo"), "")[0].id == "jp000001"
    with pytest.raises(WireError, match="nagoya"):
        made.choose(Want(country="jp", city="nagoya"), "")


def test_the_better_score_gets_more() -> None:
    scores = (
        Score(node="jp000001", at=0, value=90, healthy=True),
        Score(node="jp000002", at=0, value=30, healthy=True),
    )
    made = fleet(node("jp000001"), node("jp000002"), scores=scores)
    counts = Counter(made.choose(Want(country="jp"), "")[0].id for _ in range(100))
    assert counts["jp000001"] > counts["jp000002"]


def test_unhealthy_only_where_nothing_else_is_left() -> None:
    scores = (
        Score(node="jp000001", at=0, value=10, healthy=False),
        Score(node="jp000002", at=0, value=30, healthy=True),
    )
    made = fleet(node("jp000001"), node("jp000002"), scores=scores)
    assert {made.choose(Want(country="jp"), "")[0].id for _ in range(20)} == {"jp000002"}
    assert made.choose(Want(country="jp"), "", tried={"jp000002"})[0].id == "jp000001"


def test_an_empty_registry_changes_nothing() -> None:
    made = fleet(node("jp000001"))
    made.update(Snapshot(epoch=""))
    assert made.choose(Want(country="jp"), "")[0].id == "jp000001"


def test_every_gateway_gives_a_session_the_same_node() -> None:
    nodes = [node(f"jp00000{i}") for i in range(1, 6)]
    first, second = fleet(*nodes), fleet(*reversed(nodes))
    for name in ("a", "b", "c", "d"):
        want = Want(country="jp", session=name)
        assert first.choose(want, "u")[0] == second.choose(want, "u")[0]


def test_a_session_moves_only_when_it_may() -> None:
    made = fleet(node("jp000001"), node("jp000002"))
    soft, strict = Want(country="jp", session="s"), Want(country="jp", session="s", strict=True)
    first = made.choose(soft, "u")[0].id
    link(made, first).up = False
    with pytest.raises(WireError, match="strict session"):
        made.choose(strict, "u")
    second = made.choose(soft, "u")[0].id
    assert second != first
    link(made, first).up = True
    assert made.choose(soft, "u")[0].id == second

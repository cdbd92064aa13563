"""Whose the fleet's nodes are, told from their records and from the engine's containers."""

from typing import Any

import pytest

from control.machines import Stance, elsewhere, stance
from health.model import Node, NodeKind, NodeStatus


def node(number: int, machine: str = "m1", status: NodeStatus = NodeStatus.SERVING, **fields: Any) -> Node:
    return Node(
        **{"id": f"jp{number:06x}", "country": "jp", "kind": NodeKind.VPN, "machine": machine, "status": status}
        | fields
    )


def test_without_nodes_of_others_it_acts() -> None:
    for nodes in ([], [node(1)], [node(1), node(2)]):
        assert stance(nodes, {"m1"}, set()) == Stance()


def test_where_all_nodes_are_on_another_machine_it_stands_by_and_says_how_to_mend_it() -> None:
    found = stance([node(1), node(2)], {"m2"}, set())
    assert found.stands_by
    assert found.reason == (
        "the fleet runs on machine m1, which this control (of m2) does not reach: it stands by (2 nodes). "
        "Start the control there; if that machine is gone for good, or this is it under a new name, "
        "set control.machine to m1 here"
    )


def test_beside_nodes_of_its_own_it_leaves_those_of_others_alone() -> None:
    found = stance([node(1), node(2, "m2")], {"m2"}, set())
    assert not found.stands_by
    assert found.reason.startswith("1 node on machine m1, which this control (of m2) does not reach: left alone")


@pytest.mark.parametrize(
    "ours",
    [
        node(1, status=NodeStatus.FAILED),
        node(1, status=NodeStatus.STOPPED),
        node(1, kind=NodeKind.DIRECT),
        node(1, kind=NodeKind.UPSTREAM),
    ],
)
def test_what_has_ended_or_runs_nowhere_is_nobodys(ours: Node) -> None:
    assert stance([ours], {"m2"}, set()) == Stance()


def test_a_machine_under_a_new_name_knows_its_own_by_their_containers() -> None:
    assert elsewhere([node(1), node(2)], {"renamed"}, {"jp000001", "jp000002"}) == []
    assert elsewhere([node(1), node(2)], {"renamed"}, {"jp000001"}) == [node(2)]


def test_an_engine_of_several_machines_reaches_all_of_them() -> None:
    assert elsewhere([node(1), node(2, "m2"), node(3, "m3")], {"m1", "m2"}, set()) == [node(3, "m3")]

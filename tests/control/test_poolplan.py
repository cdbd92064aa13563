"""Make before break, as a table of small pools."""

import dataclasses
from typing import Any

from control.model import Advance, AgentView, Outcome, Place, Retire, Step, World
from control.plan import plan
from health.model import Node, NodeStatus, Pool, Protocol, Tunnel
from tests.control.test_plan import NOW, PASSED, container, node, only, world

DAY = 86400.0


def settled(*nodes: Node, **fields: Any) -> World:
    """A world in which everybody has been what he is for 100 s."""
    fields.setdefault("since", {n.id: NOW - 100 for n in nodes})
    return world(*nodes, **fields)


def drained(steps: list[Step]) -> list[tuple[str, str]]:
    return [(s.node.slot, s.reason) for s in steps if isinstance(s, Advance) and s.to is NodeStatus.DRAINING]


def test_a_node_told_to_retire_serves_on_while_its_successor_starts_in_a_slot_of_its_own() -> None:
    old = node(0, retire="asked for")
    assert only(plan(settled(old))) == Place("jp-1", "jp", "", old.id, old.id)
    for status in (NodeStatus.REQUESTED, NodeStatus.STARTING, NodeStatus.VERIFYING):
        heir = node(1, status, replaces=old.id)
        steps = plan(settled(old, heir, since={old.id: NOW - 100}))
        assert drained(steps) == []
        assert not any(isinstance(step, Place) for step in steps)


def test_it_drains_once_its_successor_has_served_long_enough_to_be_seen_by_all() -> None:
    old, heir = node(0, retire="asked for"), node(1, replaces="jp000000")
    assert plan(world(old, heir, since={old.id: NOW - 100, heir.id: NOW - 1.9})) == []
    steps = plan(world(old, heir, since={old.id: NOW - 100, heir.id: NOW - 2}))
    assert drained(steps) == [("jp-0", "replaced by jp000001: asked for")]


def test_it_ends_stopped_with_its_reason_but_failed_where_something_else_came_in_between() -> None:
    for reason, status in (
        ("replaced by jp000001: asked for", NodeStatus.STOPPED),
        ("its exit is in us", NodeStatus.FAILED),
    ):
        leaving = node(0, NodeStatus.DRAINING, retire="asked for", reason=reason)
        step = only(plan(world(leaving, desired=0, containers=(container(leaving, "exited"),))))
        assert isinstance(step, Advance)
        assert (step.to, step.reason) == (status, reason)


def test_a_successor_that_fails_leaves_its_predecessor_serving_and_is_replaced_itself() -> None:
    old, failed = node(0, retire="asked for"), node(1, NodeStatus.FAILED, replaces="jp000000")
    steps = plan(settled(old, failed))
    assert drained(steps) == []
    assert Place("jp-1", "jp", failed.id, old.id, old.id) in steps


def test_a_whole_pool_is_replaced_one_node_after_another() -> None:
    old = [node(number, retire="asked for") for number in range(3)]
    assert plan(settled(*old, desired=3)) == [Place("jp-3", "jp", "", "jp000000", "jp000000")]
    heir = node(3, replaces="jp000000")
    assert drained(plan(settled(*old, heir, desired=3))) == [("jp-0", "replaced by jp000003: asked for")]
    leaving = node(0, NodeStatus.DRAINING, retire="asked for")
    assert plan(settled(leaving, *old[1:], heir, desired=3, since={})) == []


def test_one_that_does_not_serve_yet_gives_way_at_once() -> None:
    begun = node(0, NodeStatus.STARTING, retire="asked for")
    agents = {begun.id: AgentView(Tunnel.STARTING, 0, NOW)}
    assert drained(plan(world(begun, agents=agents))) == [("jp-0", "gives way: asked for")]


def test_a_smaller_pool_drains_those_that_are_to_retire_first() -> None:
    keep, old = node(1), node(0, retire="asked for")
    assert drained(plan(settled(old, keep, desired=1))) == [("jp-0", "gives way: asked for")]


def test_a_successor_without_the_mark_on_its_predecessor_marks_it() -> None:
    old, heir = node(0), node(1, replaces="jp000000")
    assert plan(settled(old, heir)) == [Retire(old, "jp000001 is to take over")]


def test_one_that_drained_first_for_want_of_a_slot_still_gets_its_successor() -> None:
    leaving = node(0, NodeStatus.DRAINING, retire="asked for", reason="drained before its successor starts: asked for")
    assert only(plan(world(leaving))) == Place("jp-1", "jp", "", leaving.id)


def test_another_provider_or_protocol_of_the_pool_replaces_its_nodes() -> None:
    old = node(0, provider="nordvpn", follows=Protocol.OPENVPN_UDP)
    pools = {"jp": Pool(country="jp", desired=1, provider="custom")}
    assert plan(settled(old, pools=pools)) == [Retire(old, "its pool's provider is custom now")]
    pools = {"jp": Pool(country="jp", desired=1, protocol=Protocol.WIREGUARD)}
    assert plan(settled(old, pools=pools)) == [Retire(old, "its pool's protocol is wireguard now")]
    own = node(0, provider="nordvpn", follows=None, protocol=Protocol.OPENVPN_TCP)
    assert plan(settled(own, pools=pools)) == []


def test_a_server_with_another_address_replaces_its_node() -> None:
    moved = {"jp000000": "its server jp1 has the address 203.0.113.9 now"}
    assert plan(settled(node(0), moved=moved)) == [Retire(node(0), moved["jp000000"])]


def test_a_day_later_one_node_of_the_pool_is_rotated_and_no_other_meanwhile() -> None:
    nodes = [node(number, started_at=1000.0 + number) for number in range(3)]
    pools = {"jp": Pool(country="jp", desired=3, rotate_hours=24)}
    assert plan(settled(*nodes, pools=pools, wall=1000 + DAY - 1)) == []
    steps = plan(settled(*nodes, pools=pools, wall=1000 + 2 * DAY))
    assert steps == [Retire(nodes[0], "rotated after 24 h, as its pool says")]
    marked = node(0, started_at=1000.0, retire="rotated")
    others = plan(settled(marked, *nodes[1:], pools=pools, wall=1000 + 2 * DAY))
    assert others == [Place("jp-3", "jp", "", marked.id, marked.id)]


def test_an_unwell_node_is_replaced_after_a_minute_if_it_was_well_for_long_enough() -> None:
    sick = node(0)
    assert plan(settled(sick, unwell={sick.id: NOW - 99})) == []
    old = {sick.id: NOW - 600}
    assert plan(world(sick, since=old, unwell={sick.id: NOW - 59})) == []
    step = only(plan(world(sick, since=old, unwell={sick.id: NOW - 60})))
    assert isinstance(step, Retire)
    assert "unwell" in step.reason


def test_a_refuted_node_serves_no_new_connection_while_its_successor_starts() -> None:
    refuted = dataclasses.replace(PASSED, outcome=Outcome.REFUTED, reason="in us")
    wrong = node(0)
    assert drained(plan(settled(wrong, verdicts={wrong.id: refuted}))) == [("jp-0", "in us")]
    leaving = node(0, NodeStatus.DRAINING, reason="in us")
    assert plan(world(leaving)) == [Place("jp-1", "jp", "")]

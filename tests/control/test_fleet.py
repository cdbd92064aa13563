"""What an operator asks for: restart and rotate, alone and two at a time, with and without a spare slot."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from control.fleet import FleetError, NotFoundError, UnavailableError
from control.leadership import LostLeadError
from control.model import Place
from control.providers import NoSlotError
from health.model import Node, NodeStatus, Protocol


async def stopped(control: Any, node_id: str) -> Node:
    async def found() -> Node | None:
        record: Node | None = await control.registry.node(node_id)
        return record if record is not None and record.status.ended else None

    node: Node = await control.settle(found)
    return node


async def draining(control: Any, node_id: str) -> Node:
    async def found() -> Node | None:
        control.world.ahead += 0.5
        record: Node | None = await control.registry.node(node_id)
        return record if record is not None and record.status is NodeStatus.DRAINING else None

    node: Node = await control.settle(found)
    return node


async def test_a_restart_gives_the_successor_which_serves_before_its_predecessor_drains(fleet: Any) -> None:
    await fleet.pool(1)
    (old,) = await fleet.serving()
    heir = await fleet.fleet.restart(old.id)
    assert (heir.status, heir.replaces, heir.slot) == (NodeStatus.REQUESTED, old.id, "jp-1")
    assert heir.vpn_server != old.vpn_server
    assert {n.id for n in await fleet.serving(count=2)} == {old.id, heir.id}
    leaving = await draining(fleet, old.id)
    assert leaving.reason == f"replaced by {heir.id}: an operator asked for a restart"
    assert old.id in fleet.world.engine.running
    await fleet.later(31)
    assert (await stopped(fleet, old.id)).status is NodeStatus.STOPPED
    assert [n.id for n in await fleet.serving()] == [heir.id]
    assert (await fleet.registry.pool("jp")).desired == 1


async def test_asked_twice_and_by_two_operators_at_once_it_is_one_successor(
    fleet: Any, new_control: Callable[..., Any]
) -> None:
    other = new_control(machine="m1")
    await fleet.pool(2)
    old, beside = await fleet.serving(count=2)
    answers = await asyncio.gather(*(control.fleet.restart(old.id) for control in (fleet, other, fleet, other)))
    assert len({node.id for node in answers}) == 1
    assert (await fleet.fleet.restart(old.id)).id == answers[0].id
    await draining(fleet, old.id)
    assert {n.id for n in await fleet.serving(count=2)} == {answers[0].id, beside.id}
    assert fleet.world.engine.calls.count("create") == 3


async def test_a_successor_keeps_what_its_predecessor_was_asked_for_with(fleet: Any) -> None:
    await fleet.registry.begin_epoch()
    old = await fleet.fleet.start("jp", city="Osaka", protocol=Protocol.OPENVPN_TCP)
    await fleet.serving()
    heir = await fleet.fleet.restart(old.id)
    assert (heir.city, heir.protocol, heir.asked_city, heir.follows) == ("Osaka", Protocol.OPENVPN_TCP, "Osaka", None)


async def test_without_a_spare_slot_it_drains_first_and_says_so(fleet: Any) -> None:
    fleet.world.provider.slots = 1
    await fleet.pool(1)
    (old,) = await fleet.serving()
    told = await fleet.fleet.restart(old.id)
    assert (told.id, told.status) == (old.id, NodeStatus.DRAINING)
    assert told.reason == (
        "drained before its successor starts (no account takes a node: account acct: 1 of 1 sessions are in use): "
        "an operator asked for a restart"
    )
    await fleet.later(31)
    assert (await stopped(fleet, old.id)).status is NodeStatus.STOPPED
    fleet.world.ahead += 1
    (heir,) = await fleet.serving()
    assert heir.id != old.id
    assert fleet.reconciler.trouble("jp") == ""


async def test_a_rotation_without_a_spare_slot_drains_one_after_another(fleet: Any) -> None:
    fleet.world.provider.slots = 2
    await fleet.pool(2)
    before = await fleet.serving(count=2)
    marked = await fleet.fleet.rotate("jp")
    assert [node.id for node in marked] == [node.id for node in before]
    seen: list[int] = []

    async def done() -> bool:
        fleet.world.ahead += 1
        nodes = (await fleet.registry.nodes()).values()
        seen.append(sum(node.status is NodeStatus.SERVING for node in nodes))
        running = [node for node in nodes if not node.status.ended]
        return len(running) == 2 and all(n.status is NodeStatus.SERVING and not n.retire for n in running)

    await fleet.settle(done, within=30)
    assert min(seen) == 1
    ended = [await fleet.registry.node(node.id) for node in before]
    assert all("2 of 2 sessions are in use" in node.reason for node in ended if node is not None)


async def test_a_whole_pool_is_rotated_without_a_moment_in_which_fewer_serve(fleet: Any) -> None:
    await fleet.pool(3)
    before = {node.id for node in await fleet.serving(count=3)}
    await fleet.fleet.rotate("jp")
    least = 3

    async def done() -> bool:
        nonlocal least
        fleet.world.ahead += 1
        nodes = (await fleet.registry.nodes()).values()
        serving = {node.id for node in nodes if node.status is NodeStatus.SERVING}
        least = min(least, len(serving))
        assert len(fleet.world.engine.running) <= 4
        return len(serving) == 3 and not serving & before and len(fleet.world.engine.running) == 3

    await fleet.settle(done, within=30)
    assert least == 3


async def test_a_changed_protocol_replaces_what_serves(fleet: Any) -> None:
    await fleet.pool(1)
    (old,) = await fleet.serving()
    await fleet.fleet.change_pool("jp", {"protocol": "openvpn_tcp"})
    leaving = await draining(fleet, old.id)
    (heir,) = await fleet.serving()
    assert leaving.reason == f"replaced by {heir.id}: its pool's protocol is openvpn_tcp now"
    assert heir.protocol is Protocol.OPENVPN_TCP


async def test_a_server_that_moved_is_left_for_another(fleet: Any) -> None:
    await fleet.pool(1)
    (old,) = await fleet.serving()
    fleet.world.provider.elsewhere.add(old.vpn_server)
    assert (await draining(fleet, old.id)).reason.endswith(": moved")


async def test_a_pool_that_rotates_by_age_replaces_its_oldest(fleet: Any) -> None:
    await fleet.pool(1, rotate_hours=1)
    (old,) = await fleet.serving()
    await fleet.later(3600 * 1.2)
    assert "rotated after 1 h" in (await draining(fleet, old.id)).reason


async def test_without_a_server_the_node_serves_on_and_is_to_be_replaced(fleet: Any) -> None:
    await fleet.pool(1)
    (old,) = await fleet.serving()
    fleet.world.provider.trouble = "the provider has no servers in jp"
    told = await fleet.fleet.restart(old.id)
    assert (told.id, told.status, told.retire) == (old.id, NodeStatus.SERVING, "an operator asked for a restart")
    for _ in range(3):
        await fleet.later(1)
    assert fleet.reconciler.trouble("jp") == "the provider has no servers in jp"
    assert [n.id for n in await fleet.serving()] == [old.id]
    fleet.world.provider.trouble = ""
    await draining(fleet, old.id)


async def test_what_cannot_be_restarted_is_refused_in_plain_words(fleet: Any, new_control: Callable[..., Any]) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    with pytest.raises(NotFoundError, match="there is no node jpffffff"):
        await fleet.fleet.restart("jpffffff")
    with pytest.raises(NotFoundError, match="no node to rotate in us"):
        await fleet.fleet.rotate("us")
    await fleet.fleet.stop(node.id)
    assert (await fleet.fleet.restart(node.id)).status is NodeStatus.DRAINING
    await fleet.later(31)
    await stopped(fleet, node.id)
    with pytest.raises(FleetError, match="has ended"):
        await fleet.fleet.restart(node.id)
    bare = new_control(engine="none", direct_nodes=("zz",))
    with pytest.raises(UnavailableError):
        await bare.fleet.restart(node.id)


async def test_a_mark_is_not_lost_to_whoever_had_not_heard_of_it(fleet: Any) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    await fleet.registry.advance_node(node.model_copy(update={"retire": "asked for"}), node.status)
    learnt = node.model_copy(update={"exit_ip": "203.0.113.77"})
    assert not await fleet.registry.advance_node(learnt, node.status)
    assert (await fleet.registry.node(node.id)).retire == "asked for"


async def test_two_operators_at_once_scale_start_and_stop_without_losing_a_wish(
    fleet: Any, new_control: Callable[..., Any]
) -> None:
    other = new_control(machine="m1")
    await fleet.pool(2)
    first, second = await fleet.serving(count=2)
    await asyncio.gather(
        fleet.fleet.start("jp"), other.fleet.start("jp"), other.fleet.stop(first.id), fleet.fleet.stop(first.id)
    )
    assert (await fleet.registry.pool("jp")).desired == 3
    serving = await fleet.serving(count=3)
    assert second.id in {node.id for node in serving}
    assert first.id not in {node.id for node in serving}
    await asyncio.gather(fleet.fleet.scale("jp", 1), other.fleet.scale("jp", 4), return_exceptions=True)
    desired = (await fleet.registry.pool("jp")).desired
    assert desired in (1, 4)
    await fleet.serving(count=desired)


async def test_who_lost_the_lead_while_choosing_drains_nothing(fleet: Any) -> None:
    fleet.world.provider.slots = 1
    await fleet.pool(1)
    (old,) = await fleet.serving()
    answers = iter([None, LostLeadError("another leads")])

    async def check() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    assert not await fleet.steps.do(Place("jp-1", "jp", "", old.id, old.id), check)
    assert (await fleet.registry.node(old.id)).status is NodeStatus.SERVING


async def test_a_node_that_ended_is_not_told_to_be_the_one_that_was_started(
    fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.pool(1)
    (old,) = await fleet.serving()
    await fleet.fleet.stop(old.id)
    await fleet.later(31)
    await stopped(fleet, old.id)

    async def refuse(node: Node) -> None:
        raise NoSlotError("another took the last session")

    monkeypatch.setattr(fleet.placement._accounts, "reserve", refuse)
    with pytest.raises(FleetError, match="the wish was recorded"):
        await fleet.fleet.start("jp")

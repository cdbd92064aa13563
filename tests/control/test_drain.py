"""Draining ends once no gateway has a connection through the node, and not before that is proved."""

from typing import Any

import pytest

from control.drain import INTERVAL_S, MAX_AGE_S, SETTLED_S, Drain
from control.load import Carried
from health.model import Node, NodeKind, NodeStatus


def node(number: int, status: NodeStatus = NodeStatus.DRAINING) -> Node:
    return Node(id=f"jp{number:06x}", country="jp", kind=NodeKind.VPN, machine="m1", status=status)


class Gateways:
    """What they carry, by a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.carried = Carried()
        self.drain = Drain(self.read, lambda: self.now)

    async def read(self) -> Carried:
        return self.carried

    def due(self, *nodes: Node, since: float = 0.0) -> frozenset[str]:
        return self.drain.due({one.id: one for one in nodes}, {one.id: since for one in nodes})


@pytest.fixture
def gateways() -> Gateways:
    return Gateways()


async def test_only_nodes_that_have_drained_for_a_while_are_asked_about(gateways: Gateways) -> None:
    serving, ended = node(2, NodeStatus.SERVING), node(3, NodeStatus.STOPPED)
    assert gateways.due(node(1), serving, ended) == {"jp000001"}
    assert gateways.due(node(1), since=gateways.now - SETTLED_S + 0.1) == frozenset()
    assert gateways.drain.due({"jp000001": node(1)}, {}) == frozenset()


async def test_the_gateways_are_asked_now_and_then_and_not_again_about_who_is_idle(gateways: Gateways) -> None:
    assert await gateways.drain.ask(gateways.due(node(1)))
    assert gateways.drain.idle == {"jp000001"}
    assert gateways.due(node(1), node(2)) == frozenset()
    gateways.now += INTERVAL_S
    assert gateways.due(node(1), node(2)) == {"jp000002"}
    gateways.due(node(2))
    assert gateways.drain.idle == frozenset()


@pytest.mark.parametrize(
    ("carried", "idle"),
    [
        (Carried({}), True),
        (Carried({"jp000001": 0, "jp000002": 5}), True),
        (Carried({"jp000001": 1}), False),
        (Carried({}, "gateway 127.0.0.1:1 is not reached"), False),
        (Carried({}, age=MAX_AGE_S), True),
        (Carried({}, age=MAX_AGE_S + 0.1), False),
        (Carried({}, age=float("inf")), False),
    ],
)
async def test_a_node_is_idle_where_every_gateway_says_so_by_a_fresh_picture(
    gateways: Gateways, carried: Carried, idle: bool
) -> None:
    gateways.carried = carried
    assert await gateways.drain.ask({"jp000001"}) is idle
    assert gateways.drain.idle == ({"jp000001"} if idle else frozenset())


@pytest.mark.parametrize(
    "carried", [Carried({"of": 1}), Carried({}, "gateway 127.0.0.1:1 is not reached"), Carried({}, age=60.0)]
)
async def test_a_node_in_use_or_nobody_knows_drains_until_the_deadline(fleet: Any, carried: Carried) -> None:
    await fleet.pool(1)
    (found,) = await fleet.serving()
    used = carried.by_node.get("of", 0)
    fleet.world.load = Carried({found.id: used}, carried.trouble, carried.age)
    await fleet.pool(0)
    for _ in range(22):  # the deadline is 30 s, and real time passes as well
        await fleet.later(1)
    assert fleet.world.engine.running == [found.id]
    await fleet.later(10)
    await fleet.settle(lambda: _ended(fleet, found.id))


async def test_a_node_that_nobody_uses_ends_within_seconds(fleet: Any) -> None:
    await fleet.pool(1)
    (found,) = await fleet.serving()
    fleet.world.load = Carried({found.id: 1})
    await fleet.pool(0)
    for _ in range(8):
        await fleet.later(1)
    assert fleet.world.engine.running == [found.id]
    fleet.world.load = Carried()
    for _ in range(3):
        await fleet.later(1)
    assert fleet.world.engine.running == []
    stopped = await fleet.settle(lambda: _ended(fleet, found.id))
    assert (stopped.status, stopped.reason) == (NodeStatus.STOPPED, "")


async def _ended(fleet: Any, node_id: str) -> Node | None:
    found: Node | None = await fleet.registry.node(node_id)
    return found if found is not None and found.status.ended else None

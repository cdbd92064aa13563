"""Pools follow their load."""

from typing import Any

from control.autoscale import DOWN_AFTER_S
from control.load import Carried
from health.model import Node, NodeStatus


async def desired(control: Any) -> int:
    found = await control.registry.pool("jp")
    return int(found.desired)


async def look(control: Any) -> None:
    await control.later(6)
    await control.later(0)


def carry(control: Any, nodes: list[Node], connections: int, trouble: str = "") -> None:
    control.world.load = Carried({node.id: connections for node in nodes}, trouble)


async def test_more_load_starts_nodes_at_once_and_less_ends_them_slowly(fleet: Any) -> None:
    await fleet.pool(1, target_connections=10, max=3)
    nodes = await fleet.serving()
    carry(fleet, nodes, 100)
    await look(fleet)
    assert await desired(fleet) == 2
    await look(fleet)
    assert await desired(fleet) == 3
    nodes = await fleet.serving(count=3)
    carry(fleet, nodes, 1)
    for _ in range(int(DOWN_AFTER_S / 6)):
        await look(fleet)
    assert await desired(fleet) == 3
    for _ in range(2):
        await look(fleet)
    assert await desired(fleet) == 2


async def test_a_gateway_that_is_not_heard_is_told_and_ends_no_node(fleet: Any) -> None:
    await fleet.pool(2, target_connections=10)
    carry(fleet, await fleet.serving(count=2), 0, "gateway 127.0.0.1:1 is not reached")
    for _ in range(60):
        await look(fleet)
    assert await desired(fleet) == 2
    assert fleet.reconciler._troubles.of("load") == "gateway 127.0.0.1:1 is not reached"


async def test_a_pool_without_a_target_stays_as_it_is_set(fleet: Any) -> None:
    await fleet.pool(1)
    carry(fleet, await fleet.serving(), 10_000)
    await look(fleet)
    await look(fleet)
    assert await desired(fleet) == 1


async def test_connections_of_other_countries_and_of_gone_nodes_do_not_count(fleet: Any) -> None:
    await fleet.pool(1, target_connections=10)
    await fleet.pool(1, country="us")
    (other,) = await fleet.serving("us")
    (own,) = await fleet.serving()
    fleet.world.load = Carried({other.id: 500, "jpffffff": 500, own.id: 3})
    await look(fleet)
    await look(fleet)
    assert await desired(fleet) == 1
    assert (await fleet.registry.node(own.id)).status is NodeStatus.SERVING


async def test_a_calm_that_nobody_watched_ends_no_node(fleet: Any) -> None:
    await fleet.pool(2, target_connections=10)
    carry(fleet, await fleet.serving(count=2), 0)
    await look(fleet)
    fleet.world.ahead += DOWN_AFTER_S + 60
    await look(fleet)
    assert await desired(fleet) == 2


async def test_a_gateway_that_nobody_asks_any_more_is_no_trouble(fleet: Any) -> None:
    await fleet.pool(1, target_connections=10)
    carry(fleet, await fleet.serving(), 0, "gateway 127.0.0.1:1 is not reached")
    await look(fleet)
    assert fleet.reconciler._troubles.of("load")
    await fleet.pool(1, target_connections=None)
    await look(fleet)
    assert not fleet.reconciler._troubles.of("load")

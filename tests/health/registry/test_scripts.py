"""What Redis does in one step, through the registry that sends it."""

import asyncio
from collections.abc import Callable

import pytest

from health.model import Node, NodeStatus, Pool
from health.registry import Registry, StaleVersionError

MakeNode = Callable[..., Node]


async def test_a_node_advances_only_from_the_expected_status(registry: Registry, make_node: MakeNode) -> None:
    starting, serving = make_node(status="starting"), make_node(status="serving", reason="verified")
    assert not await registry.advance_node(serving, NodeStatus.STARTING)
    assert await registry.nodes() == {}
    await registry.put_node(starting)
    assert await registry.advance_node(serving, NodeStatus.STARTING)
    assert await registry.node(serving.id) == serving
    assert await registry.advance_node(serving, NodeStatus.STARTING), "asked again after a time-out"
    assert not await registry.advance_node(make_node(status="failed"), NodeStatus.STARTING)
    assert await registry.node(serving.id) == serving


async def test_a_slot_is_one_nodes(registry: Registry, make_node: MakeNode) -> None:
    first, second = make_node("jp000001"), make_node("jp000002")
    claims = [registry.claim_slot("jp-0", node, "") for node in (first, second)]
    assert sorted(await asyncio.gather(*claims)) == [False, True]
    holder = (await registry.claims(["jp-0", "jp-1"]))["jp-0"]
    winner, loser = (first, second) if holder == first.id else (second, first)
    assert await registry.nodes() == {winner.id: winner}
    assert await registry.claim_slot("jp-0", winner.model_copy(update={"reason": "again"}), "")
    assert await registry.nodes() == {winner.id: winner}
    assert await registry.claim_slot("jp-0", loser, winner.id)
    assert await registry.claims(["jp-0"]) == {"jp-0": loser.id}
    await registry.release_slot("jp-0", winner.id)
    assert await registry.claims(["jp-0"]) == {"jp-0": loser.id}
    await registry.release_slot("jp-0", loser.id)
    assert await registry.claims(["jp-0"]) == {}
    assert await registry.claims([]) == {}


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write made twice has the same stamp both times, as one that the client repeats after a time-out."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)


@pytest.mark.usefixtures("repeated")
async def test_a_pool_is_lowered_together_with_its_node(registry: Registry, make_node: MakeNode) -> None:
    pool = await registry.put_pool(Pool(country="jp", desired=2))
    serving, draining = make_node(), make_node(status="draining")
    lower = pool.model_copy(update={"desired": 1})
    assert not await registry.retire(lower, draining, NodeStatus.SERVING)
    assert await registry.pool("jp") == pool
    await registry.put_node(serving)
    assert await registry.retire(lower, draining, NodeStatus.SERVING)
    stored = await registry.pool("jp")
    assert stored is not None
    assert (stored.desired, stored.version, await registry.node(draining.id)) == (1, 2, draining)
    assert await registry.retire(lower, draining, NodeStatus.SERVING), "asked again after a time-out"
    with pytest.raises(StaleVersionError) as caught:
        await registry.retire(lower, make_node(status="stopped"), NodeStatus.DRAINING)
    assert caught.value.current == 2
    assert await registry.node(draining.id) == draining


@pytest.mark.usefixtures("repeated")
async def test_the_same_write_twice_is_one(registry: Registry) -> None:
    pool = Pool(country="jp", desired=2)
    assert await registry.put_pool(pool) == await registry.put_pool(pool)

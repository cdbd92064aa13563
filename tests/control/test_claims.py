"""The registry's part of control: slots change hands by compare-and-set, nodes move by their status."""

import asyncio

import pytest

from health.model import Node, NodeKind, NodeStatus, Pool
from health.registry import Registry, StaleVersionError


def node(number: int, status: NodeStatus = NodeStatus.REQUESTED) -> Node:
    return Node(id=f"jp{number:06x}", country="jp", kind=NodeKind.VPN, machine="m", status=status, slot="jp-0")


async def test_a_slot_goes_to_one_of_many_who_want_it(registry: Registry) -> None:
    answers = await asyncio.gather(*(registry.claim_slot("jp-0", node(n), "") for n in range(20)))
    assert sum(answers) == 1
    winner = f"jp{answers.index(True):06x}"
    assert await registry.claims(["jp-0", "jp-1"]) == {"jp-0": winner}
    assert set(await registry.nodes()) == {winner}


async def test_a_claim_repeated_by_its_holder_changes_nothing(registry: Registry) -> None:
    assert await registry.claim_slot("jp-0", node(1), "")
    assert await registry.advance_node(node(1, NodeStatus.STARTING), NodeStatus.REQUESTED)
    assert await registry.claim_slot("jp-0", node(1), "")
    stored = await registry.node("jp000001")
    assert stored is not None
    assert stored.status is NodeStatus.STARTING


async def test_a_slot_passes_on_only_from_the_holder_that_was_expected(registry: Registry) -> None:
    assert await registry.claim_slot("jp-0", node(1), "")
    assert not await registry.claim_slot("jp-0", node(2), "")
    assert not await registry.claim_slot("jp-0", node(2), "jp000009")
    assert await registry.claim_slot("jp-0", node(2), "jp000001")
    await registry.release_slot("jp-0", "jp000001")
    assert await registry.claims(["jp-0"]) == {"jp-0": "jp000002"}
    await registry.release_slot("jp-0", "jp000002")
    assert await registry.claims(["jp-0"]) == {}
    assert await registry.claims([]) == {}


async def test_a_node_that_moved_on_is_not_moved_back(registry: Registry) -> None:
    await registry.put_node(node(1, NodeStatus.DRAINING))
    assert not await registry.advance_node(node(1, NodeStatus.SERVING), NodeStatus.VERIFYING)
    assert not await registry.advance_node(node(2, NodeStatus.SERVING), NodeStatus.VERIFYING)
    assert set(await registry.nodes()) == {"jp000001"}


async def test_two_that_write_the_same_at_once_are_not_taken_for_one_that_repeats_itself(registry: Registry) -> None:
    pool = await registry.put_pool(Pool(country="jp", desired=1))
    raised = pool.model_copy(update={"desired": 2})
    answers = await asyncio.gather(*(registry.put_pool(raised) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(answer, Pool) for answer in answers) == 1
    assert sum(isinstance(answer, StaleVersionError) for answer in answers) == 4


async def test_a_term_is_renewed_by_its_name_alone(registry: Registry) -> None:
    assert await registry.leader("role") == ""
    assert await registry.lead("role", "", "a", 5) == "a"
    assert await registry.lead("role", "a", "b", 5) == "a"
    assert await registry.lead("role", "", "c", 5) == ""
    assert await registry.lead("role", "", "a", 5) == "a"
    assert await registry.leader("role") == "a"
    await registry.release("role", "a")
    assert await registry.lead("role", "a", "d", 5) == "d"


async def test_retire_changes_pool_and_node_both_or_neither(registry: Registry) -> None:
    await registry.put_node(node(1, NodeStatus.SERVING))
    pool = await registry.put_pool(Pool(country="jp", desired=2))
    lowered, draining = pool.model_copy(update={"desired": 1}), node(1, NodeStatus.DRAINING)
    with pytest.raises(StaleVersionError):
        await registry.retire(lowered.model_copy(update={"version": 7}), draining, NodeStatus.SERVING)
    assert not await registry.retire(lowered, draining, NodeStatus.VERIFYING)
    assert (await registry.pools())["jp"] == pool
    assert await registry.retire(lowered, draining, NodeStatus.SERVING)
    stored, moved = (await registry.pools())["jp"], await registry.node("jp000001")
    assert (stored.desired, stored.version) == (1, 2)
    assert moved is not None
    assert moved.status is NodeStatus.DRAINING

"""One observation: what is kept between two, and what was taken between two reads."""

from typing import Any

from control.model import Container, Outcome, Verdict
from health.model import Node, NodeKind, NodeStatus, Pool
from health.registry import Snapshot


def node(number: int, **fields: Any) -> Node:
    given = {"kind": NodeKind.VPN, "machine": "m1", "status": NodeStatus.SERVING, "slot": f"jp-{number}", **fields}
    return Node.model_validate({"id": f"jp{number:06x}", "country": "jp", **given})


def snapshot(*nodes: Node) -> Snapshot:
    return Snapshot("e", {n.id: n for n in nodes}, {}, {"jp": Pool(country="jp", desired=2)}, {})


async def observe(fleet: Any, *nodes: Node, containers: list[Container] | None = None) -> Any:
    return await fleet.reconciler._observer.world(snapshot(*nodes), containers or [], frozenset())


async def test_since_counts_from_the_first_look_at_a_status(fleet: Any) -> None:
    first = (await observe(fleet, node(0))).since["jp000000"]
    fleet.world.ahead += 5
    assert (await observe(fleet, node(0))).since["jp000000"] == first
    again = await observe(fleet, node(0, status=NodeStatus.DRAINING))
    assert again.since["jp000000"] >= first + 5


async def test_nodes_of_other_machines_count_only_where_their_container_is_here(fleet: Any) -> None:
    far = node(1, machine="m2")
    assert set((await observe(fleet, node(0), far)).nodes) == {"jp000000"}
    here = Container("c", "vpnexit-jp000001", "jp000001", "jp", "jp-1", "running")
    assert set((await observe(fleet, node(0), far, containers=[here])).nodes) == {"jp000000", "jp000001"}


async def test_a_slot_taken_after_the_snapshot_is_busy_and_a_claim_without_a_record_is_free(fleet: Any) -> None:
    await fleet.registry.claim_slot("jp-0", node(0, status=NodeStatus.REQUESTED), "")
    await fleet.registry.claim_slot("jp-1", node(1, status=NodeStatus.REQUESTED), "")
    await fleet.registry.delete_node("jp000001")
    world = await observe(fleet)
    assert world.busy == {"jp-0"}
    assert world.claims == {"jp-0": "jp000000", "jp-1": "jp000001"}


async def test_what_was_learnt_of_nodes_that_are_gone_is_forgotten(fleet: Any) -> None:
    fleet.steps.verdicts = {name: Verdict(Outcome.PASSED, 1) for name in ("jp000000", "jp000001")}
    assert set((await observe(fleet, node(0))).verdicts) == {"jp000000"}

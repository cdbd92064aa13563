"""What reconciler and operator share about a pool's nodes: who succeeds whom, and whether one more fits or is missing.

Pure.
"""

from collections.abc import Iterable
from typing import Any

from control.model import ACTIVE
from control.poolplan import EXTRA
from control.providers import Wish
from health.model import Node, NodeKind, NodeStatus, Pool


def successor(nodes: Iterable[Node], node_id: str) -> Node | None:
    """The active node that is to take over from `node_id`."""
    return next((node for node in nodes if node.replaces == node_id and node.status in ACTIVE), None)


def has_room(nodes: Iterable[Node], pool: Pool) -> bool:
    """Whether one more node of `pool` may start beside those that have not ended."""
    return sum(node.country == pool.country and not node.status.ended for node in nodes) < pool.desired + EXTRA


def fulfilled(pool: Pool, nodes: Iterable[Node]) -> bool:
    """Whether as many nodes serve as are wished for, not counting those that are to be replaced."""
    there = [node for node in nodes if node.country == pool.country and node.kind is NodeKind.VPN]
    return sum(node.status is NodeStatus.SERVING and not node.retire for node in there) >= pool.desired


def wish(pool: Pool, old: Node | None) -> Wish:
    """What to ask the provider for: as the pool says, except what `old` was asked for with."""
    if old is None:
        return Wish(pool.country, pool.protocol)
    own = old.protocol if old.follows is None else None
    return Wish(pool.country, own or pool.protocol, "", old.asked_city)


def traits(pool: Pool, old: Node | None) -> dict[str, Any]:
    """The fields by which a node that succeeds `old` (or nobody) remembers what it was placed by."""
    if old is None:
        return {"follows": pool.protocol}
    follows = None if old.follows is None and old.protocol is not None else pool.protocol
    return {"follows": follows, "asked_city": old.asked_city, "replaces": old.id}


def drained_first(node: Node, why: str, now: float) -> Node:
    """`node`, giving way before its successor starts: its account has no slot for both."""
    reason = f"drained before its successor starts ({why}): {node.retire}"
    return node.model_copy(update={"status": NodeStatus.DRAINING, "reason": reason, "changed_at": now})

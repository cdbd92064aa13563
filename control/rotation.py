"""Why a node that works should give way to a fresh one. Pure.

`mismatch` is about what the node *is*: all that do not match retire at once, and are replaced one after another as
there is room. `due` is about how it does and how old it is: one node of a pool at a time, and none while another is on
its way.
"""

from collections.abc import Iterable

from control.model import World
from health.model import Node, NodeStatus, Pool

JITTER = 0.2
"""A node rotates up to this part of its time later, by its id: nodes that started together do not end together."""


def mismatch(world: World, pool: Pool, node: Node) -> str:
    """Why `node` is not what its pool or its provider says now, or an empty string."""
    if node.provider and node.provider != pool.provider:
        return f"its pool's provider is {pool.provider} now"
    if node.follows is not None and node.follows is not pool.protocol:
        return f"its pool's protocol is {pool.protocol.value} now"
    return world.moved.get(node.id, "")


def due(world: World, pool: Pool, nodes: Iterable[Node]) -> tuple[Node, str] | None:
    """The one of `nodes` whose turn it is, and why. None where one of them does not serve yet."""
    candidates = list(nodes)
    if any(node.status is not NodeStatus.SERVING for node in candidates):
        return None
    sick = [node for node in candidates if _unwell(world, node)]
    if sick:
        worst = min(sick, key=lambda node: (world.unwell[node.id], node.id))
        why = world.ailments.get(worst.id) or "its score says why"
        return worst, f"unwell for {world.limits.unwell_after:g} s: {why}"
    old = [
        node for node in candidates if pool.rotate_hours is not None and _overdue(world, pool.rotate_hours, node) >= 0
    ]
    if not old or pool.rotate_hours is None:
        return None
    hours = pool.rotate_hours
    oldest = max(old, key=lambda node: (_overdue(world, hours, node), node.id))
    return oldest, f"rotated after {hours:g} h, as its pool says"


def _unwell(world: World, node: Node) -> bool:
    since = world.unwell.get(node.id)
    served = world.now - world.since.get(node.id, world.now)
    if since is None or served < world.limits.unwell_age:
        return False
    return world.now - since >= world.limits.unwell_after


def _overdue(world: World, hours: float, node: Node) -> float:
    """Seconds since its turn; negative before."""
    if node.started_at is None:
        return -1.0
    later = int(node.id[2:], 16) / 0x1000000
    return world.wall - node.started_at - hours * 3600 * (1 + JITTER * later)

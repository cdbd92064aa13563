"""The part of the plan that looks at a whole pool: which nodes give way, which are too many, which are missing. Pure.

Make before break. A node gives way when it is told to `retire` or is named by a successor; one whose tunnel has been
down for a while gives way, too, unless it comes back first. Those that give way do not count towards `desired`, so a
successor is placed beside them, in a slot of its own, while there is room (`desired` + EXTRA containers). They drain
once enough others have served for `hand_over` seconds, and at once where they do not serve. Everything is read from
records: a control that starts anew goes on where the last one ended.
"""

from collections.abc import Iterator

from control import rotation
from control.model import (
    ACTIVE,
    Advance,
    Container,
    Place,
    Retire,
    Step,
    World,
    slot_index,
    slot_name,
)
from health.model import Node, NodeStatus, Pool, Tunnel

EXTRA = 1
"""How many containers a pool may have above `desired` while successors and predecessors overlap."""


def pool_steps(world: World, pool: Pool, containers: dict[str, Container]) -> Iterator[Step]:
    """What the pool as a whole needs."""
    view = _View(world, pool, containers)
    yield from _retiring(view)
    yield from _surplus(view)
    yield from _giving_way(view)
    yield from _missing(view)


def dying(world: World, node: Node) -> bool:
    """True for a draining node that need not wait for its deadline."""
    if node.status is not NodeStatus.DRAINING:
        return False
    agent = world.agents.get(node.id)
    down = agent is not None and agent.tunnel is not Tunnel.UP and world.now - agent.since > world.limits.tunnel_grace
    return not node.exit_ip or down


class _View:
    """The pool's nodes, sorted into those that count, give way, leave, or have ended and still run."""

    def __init__(self, world: World, pool: Pool, containers: dict[str, Container]) -> None:
        self.world, self.pool = world, pool
        nodes = [node for node in world.nodes.values() if node.country == pool.country]
        self.active = [node for node in nodes if node.status in ACTIVE]
        self.leaving = [node for node in nodes if not node.status.ended and node.status not in ACTIVE]
        self.elsewhere = [node for node in world.elsewhere if node.country == pool.country]
        self.running = [n for n in nodes if n.status.ended and n.id in containers and _runs(containers[n.id])]
        self.heirs = {node.replaces: node for node in self.active if node.replaces}
        self.marked = [node for node in self.active if node.retire or node.id in self.heirs]
        self.shaky = [node for node in self.active if node not in self.marked and _shaky(world, node)]
        self.counted = [node for node in self.active if node not in self.marked and node not in self.shaky]

    @property
    def held(self) -> set[str]:
        return {node.slot for node in [*self.active, *self.leaving, *self.running, *self.elsewhere]}

    @property
    def steady(self) -> int:
        """How many have taken over."""
        serving = [n for n in self.counted if n.status is NodeStatus.SERVING and _carries(self.world, n)]
        return sum(self.age(node) >= self.world.limits.hand_over for node in serving)

    def age(self, node: Node) -> float:
        return self.world.now - self.world.since.get(node.id, self.world.now)


def _retiring(view: _View) -> Iterator[Step]:
    for node in view.active:
        if not node.retire:
            heir = view.heirs.get(node.id)
            reason = f"{heir.id} is to take over" if heir else rotation.mismatch(view.world, view.pool, node)
            if reason and view.pool.desired:
                yield Retire(node, reason)
    if len(view.counted) == len(view.active) and not view.leaving and len(view.active) >= view.pool.desired:
        due = rotation.due(view.world, view.pool, view.counted)
        if due is not None:
            yield Retire(*due)


def _surplus(view: _View) -> Iterator[Step]:
    for node in sorted(view.counted, key=lambda node: _worth(view.world, node))[
        : max(0, len(view.counted) - view.pool.desired)
    ]:
        yield Advance(node, NodeStatus.DRAINING)


def _giving_way(view: _View) -> Iterator[Step]:
    # Unmarked ones among the marked get their mark first: it says why they drain.
    going = [node for node in view.marked if node.retire]
    for node in going:
        if node.status is not NodeStatus.SERVING:
            yield Advance(node, NodeStatus.DRAINING, _why(view, node))
    serving = [node for node in [*going, *view.shaky] if node.status is NodeStatus.SERVING]
    serving.sort(key=lambda node: _order(view, node))
    for node in serving[: max(0, len(serving) - max(0, view.pool.desired - view.steady))]:
        yield Advance(node, NodeStatus.DRAINING, _why(view, node))


def _order(view: _View, node: Node) -> tuple[bool, bool, int]:
    # Those that carry nothing first, then those whose own successor serves, then the highest slot.
    heir = view.heirs.get(node.id)
    return _carries(view.world, node), heir is None or heir.status is not NodeStatus.SERVING, -slot_index(node.slot)


def _why(view: _View, node: Node) -> str:
    if not node.retire:
        agent = view.world.agents.get(node.id)
        said = f": {agent.reason}" if agent is not None and agent.reason else ""
        return f"its tunnel is down and a successor serves{said}"
    heir = view.heirs.get(node.id)
    return f"replaced by {heir.id}: {node.retire}" if heir else f"gives way: {node.retire}"


def _missing(view: _View) -> Iterator[Step]:
    world, pool = view.world, view.pool
    placing = [key for key in world.busy if _is_slot(key, pool.country) and key not in view.held]
    waiting = sum(dying(world, node) for node in view.leaving) + len(view.running) + len(placing)
    # Another machine's nodes are not this control's to replace: it does not start any in their place either.
    waiting += sum(node.status in ACTIVE for node in view.elsewhere)
    absent = pool.desired - len(view.active) - waiting
    room = pool.desired + EXTRA - len(view.active) - len(view.leaving) - len(view.running) - len(placing)
    # First what is not there at all; then one successor, when all that is there serves.
    count, old, instead = absent, _heirless(view, view.leaving), ""
    if absent <= 0:
        settled = all(node.status is NodeStatus.SERVING for node in view.counted)
        count = min(1, pool.desired - len(view.counted) - waiting) if settled else 0
        old = _heirless(view, view.marked)
        serving = sorted((n for n in view.marked if n.status is NodeStatus.SERVING), key=lambda n: _order(view, n))
        instead = old[0] if old else serving[0].id if serving else ""
    for slot in _free(pool.country, view.held | set(placing), max(0, min(count, room))):
        if world.now >= world.not_before.get(slot, world.now):
            yield Place(slot, pool.country, world.claims.get(slot, ""), old.pop(0) if old else "", instead)


def _heirless(view: _View, nodes: list[Node]) -> list[str]:
    """Those that are to be replaced and have no successor yet: also one that drained first, for want of a slot."""
    found = [node for node in nodes if node.retire and node.id not in view.heirs and not dying(view.world, node)]
    return [node.id for node in sorted(found, key=lambda node: slot_index(node.slot))]


def _free(country: str, held: set[str], count: int) -> list[str]:
    found: list[str] = []
    index = 0
    while len(found) < count:
        if slot_name(country, index) not in held:
            found.append(slot_name(country, index))
        index += 1
    return found


def _worth(world: World, node: Node) -> tuple[int, bool, int]:
    # Those that do not serve yet go first, then those that carry nothing now, then the highest slot.
    return ACTIVE.index(node.status), _carries(world, node), -slot_index(node.slot)


def _carries(world: World, node: Node) -> bool:
    agent = world.agents.get(node.id)
    return agent is not None and agent.tunnel is Tunnel.UP


def _shaky(world: World, node: Node) -> bool:
    agent = world.agents.get(node.id)
    if node.status is not NodeStatus.SERVING or agent is None or agent.tunnel is Tunnel.UP:
        return False
    return world.now - agent.since > world.limits.tunnel_grace / 2


def _is_slot(key: str, country: str) -> bool:
    return slot_index(key) >= 0 and key == slot_name(country, slot_index(key))


def _runs(container: Container) -> bool:
    return not container.ended and container.state != "created"

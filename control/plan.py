"""The plan: from one observation to the next step of every slot. Pure and level-based.

Nothing is remembered between two calls and nothing is done here. Every step is idempotent and at most one is planned
for a key; statuses go forward only:

    requested ─▶ starting ─▶ verifying ─▶ serving ─▶ draining ─▶ stopped (as wished) or failed (something was wrong)
        └────────────┴─────────────┴──────────┴──────▶ failed (its container ended)

A node whose container still runs is never "ended": it drains first, so that an ended record means that the session
with the provider is over. Draining ends at the deadline, and sooner where there is nothing to wait for: no gateway has
a connection through the node any more, it never served (no exit address was proved), or its tunnel is down. What a pool
as a whole needs is `poolplan`'s to say.
"""

from collections.abc import Iterator

from control import exits
from control.model import (
    Advance,
    AgentView,
    Container,
    Create,
    Forget,
    Outcome,
    Remove,
    RemoveOrphan,
    Step,
    Stop,
    Verdict,
    Verify,
    World,
)
from control.poolplan import dying, pool_steps
from health.model import Node, NodeStatus, Pool, Tunnel

CALM_RETRY = 10
"""How many times longer than usual a node that was proved before waits for its next verification."""


def plan(world: World) -> list[Step]:
    """The steps to take now, at most one for each key that is not busy."""
    containers = {container.node: container for container in world.containers}
    steps = [step for node in world.nodes.values() for step in _node_steps(world, node, containers.get(node.id))]
    steps += _orphans(world)
    for country in sorted({node.country for node in world.nodes.values()} | set(world.pools)):
        steps += pool_steps(world, world.pools.get(country) or Pool(country=country), containers)
    chosen: dict[str, Step] = {}
    for step in steps:
        if step.key not in world.busy:
            chosen.setdefault(step.key, step)
    return list(chosen.values())


def _node_steps(world: World, node: Node, container: Container | None) -> Iterator[Step]:
    if node.status.ended:
        yield from _ended(world, node, container)
    elif container is not None and container.ended:
        yield from _container_ended(node, container)
    elif node.status is NodeStatus.REQUESTED:
        yield from _requested(world, node)
    elif container is None:
        yield from _container_gone(node)
    elif node.status is NodeStatus.STARTING:
        yield from _starting(world, node)
    elif node.status is NodeStatus.VERIFYING:
        yield from _verifying(world, node)
    elif node.status is NodeStatus.SERVING:
        yield from _serving(world, node)
    else:
        yield from _draining(world, node, container)


def _ended(world: World, node: Node, container: Container | None) -> Iterator[Step]:
    if container is None:
        if _age(world, node) >= world.limits.keep_ended:
            yield Forget(node)
    elif container.ended or container.state == "created":
        yield Remove(node.id, container)
    else:
        yield Stop(node, container)


def _container_ended(node: Node, container: Container) -> Iterator[Step]:
    if node.status is NodeStatus.DRAINING and _as_wished(node):
        yield Advance(node, NodeStatus.STOPPED, node.reason)
    else:
        yield Advance(node, NodeStatus.FAILED, node.reason, container=None if node.reason else container)


def _container_gone(node: Node) -> Iterator[Step]:
    if node.status is NodeStatus.DRAINING and _as_wished(node):
        yield Advance(node, NodeStatus.STOPPED, node.reason)
    else:
        yield Advance(node, NodeStatus.FAILED, node.reason or exits.REMOVED)


def _requested(world: World, node: Node) -> Iterator[Step]:
    if world.claims.get(node.slot) == node.id:
        yield Create(node)
    else:
        yield Advance(node, NodeStatus.FAILED, "its slot was taken by another node")


def _starting(world: World, node: Node) -> Iterator[Step]:
    agent = world.agents.get(node.id)
    if agent is not None and agent.tunnel is Tunnel.UP:
        yield Advance(node, NodeStatus.VERIFYING)
    elif _age(world, node) >= world.limits.start_timeout:
        said = f": {agent.reason}" if agent is not None and agent.reason else ""
        yield Advance(node, NodeStatus.DRAINING, f"tunnel not up within {world.limits.start_timeout:g} s{said}")


def _verifying(world: World, node: Node) -> Iterator[Step]:
    verdict = _current(world, node)
    if verdict is not None and verdict.outcome is Outcome.PASSED:
        yield Advance(node, NodeStatus.SERVING, verdict=verdict)
    elif verdict is not None and verdict.outcome is Outcome.REFUTED:
        yield Advance(node, NodeStatus.DRAINING, verdict.reason)
    elif _age(world, node) >= world.limits.start_timeout:
        why = verdict.reason if verdict is not None else "the gate gave no answer"
        yield Advance(node, NodeStatus.DRAINING, f"not admitted within {world.limits.start_timeout:g} s: {why}")
    elif _since_asked(world, node) >= world.limits.verify_retry:
        yield Verify(node)


def _serving(world: World, node: Node) -> Iterator[Step]:
    agent, verdict = world.agents.get(node.id), _current(world, node)
    if agent is None or agent.tunnel is not Tunnel.UP:
        if agent is not None and _down_for(world, agent) > world.limits.tunnel_grace:
            said = f": {agent.reason}" if agent.reason else ""
            yield Advance(node, NodeStatus.DRAINING, f"tunnel down for {world.limits.tunnel_grace:g} s{said}")
    elif verdict is None:
        if _since_asked(world, node) >= world.limits.verify_retry:
            yield Verify(node)
    elif verdict.outcome is Outcome.REFUTED:
        yield Advance(node, NodeStatus.DRAINING, verdict.reason, verdict=verdict)
    elif verdict.outcome is Outcome.PASSED:
        yield from _passed_again(world, node, verdict)
    elif agent.generation != node.generation and world.now - agent.since > world.limits.tunnel_grace:
        yield Advance(node, NodeStatus.DRAINING, f"not admitted after its tunnel came back: {verdict.reason}")
    elif _since_asked(world, node) >= _retry(world, node, agent):
        yield Verify(node)


def _retry(world: World, node: Node, agent: AgentView) -> float:
    # A tunnel that was proved before may wait: who answers for addresses is most likely out of order.
    calm = min(world.limits.verify_interval, CALM_RETRY * world.limits.verify_retry)
    return calm if agent.generation == node.generation else world.limits.verify_retry


def _passed_again(world: World, node: Node, verdict: Verdict) -> Iterator[Step]:
    learnt = (verdict.generation, verdict.exit_ip, verdict.exit_country)
    if learnt != (node.generation, node.exit_ip, node.exit_country):
        yield Advance(node, NodeStatus.SERVING, verdict=verdict)
    elif _since_asked(world, node) >= world.limits.verify_interval:
        yield Verify(node)


def _draining(world: World, node: Node, container: Container) -> Iterator[Step]:
    if container.state == "created":
        # Told from a container that never ran: a stop does not end it.
        yield from _container_ended(node, container)
    elif dying(world, node) or node.id in world.idle or _age(world, node) >= world.limits.drain_deadline:
        yield Stop(node, container)


def _orphans(world: World) -> Iterator[Step]:
    for container in world.containers:
        if container.node not in world.nodes:
            yield RemoveOrphan(container)


def _as_wished(node: Node) -> bool:
    """A draining node that nothing is wrong with: one too many, or one that gave way as it was told."""
    return not node.reason or (node.retire != "" and node.reason.endswith(node.retire))


def _age(world: World, node: Node) -> float:
    return world.now - world.since.get(node.id, world.now)


def _down_for(world: World, agent: AgentView) -> float:
    return world.now - agent.since if agent.tunnel is not Tunnel.UP else 0.0


def _since_asked(world: World, node: Node) -> float:
    """Seconds since the gate answered last, about whichever tunnel."""
    verdict = world.verdicts.get(node.id)
    return float("inf") if verdict is None else world.now - verdict.at


def _current(world: World, node: Node) -> Verdict | None:
    """The last verdict, if it is about the tunnel that is up now."""
    verdict, agent = world.verdicts.get(node.id), world.agents.get(node.id)
    if verdict is None or agent is None or verdict.generation != agent.generation:
        return None
    return verdict

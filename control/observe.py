"""Puts together what the plan looks at: records, containers, agents, verdicts, scores.

What is kept between two looks is when things were first seen, by a monotonic clock; nothing that is wished.
"""

import time
from collections.abc import Callable

from control import machines
from control.agents import Agents
from control.model import Container, Limits, World, slot_index, slot_name
from control.steps import Steps
from control.wellness import Wellness
from health.model import Node, NodeKind, NodeStatus
from health.registry import Registry, Snapshot

Moved = Callable[[dict[str, Node]], dict[str, str]]
"""Of some nodes, why those do not match any more what their provider says (their server has another address, say)."""


class Observer:
    """Observes the nodes of the machines that the engine reaches, `reached`."""

    def __init__(
        self,
        *,
        registry: Registry,
        agents: Agents,
        steps: Steps,
        reached: frozenset[str],
        limits: Limits,
        moved: Moved,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._agents = agents
        self._steps = steps
        self._machines = reached
        self._limits = limits
        self._clock = clock
        self._wall = wall
        self._moved = moved
        self._since: dict[str, tuple[NodeStatus, float]] = {}
        self._wellness = Wellness()

    async def world(
        self, snapshot: Snapshot, containers: list[Container], busy: frozenset[str], idle: frozenset[str] = frozenset()
    ) -> World:
        """Everything as it is now. Raises RegistryError."""
        here = {container.node for container in containers}
        nodes = {
            node.id: node
            for node in snapshot.nodes.values()
            if node.kind is NodeKind.VPN and (node.machine in self._machines or node.id in here)
        }
        now = self._clock()
        self._steps.remember(nodes)
        self._agents.follow(
            c.node for c in containers if not c.ended and c.node in nodes and not nodes[c.node].status.ended
        )
        self._since = {
            node.id: old if (old := self._since.get(node.id)) and old[0] is node.status else (node.status, now)
            for node in nodes.values()
        }
        claims = await self._registry.claims(_slots(snapshot, nodes))
        self._wellness.look({i: score for i, score in snapshot.scores.items() if i in nodes}, now)
        return World(
            now=now,
            wall=self._wall(),
            containers=tuple(containers),
            nodes=nodes,
            pools=snapshot.pools,
            claims=claims,
            agents=dict(self._agents.views),
            verdicts=self._steps.verdicts,
            since={node_id: at for node_id, (_, at) in self._since.items()},
            not_before=self._steps.backoff.not_before,
            unwell={i: at for i, at in self._wellness.unwell.items() if nodes[i].status is NodeStatus.SERVING},
            ailments=dict(self._wellness.ailments),
            moved=self._moved(nodes),
            idle=idle,
            elsewhere=tuple(machines.elsewhere(snapshot.nodes.values(), self._machines, here)),
            busy=busy | await self._just_taken(claims, snapshot),
            limits=self._limits,
        )

    async def _just_taken(self, claims: dict[str, str], snapshot: Snapshot) -> frozenset[str]:
        """Slots that somebody (an operator, say) gave to a node after the snapshot was read: not to be taken over."""
        strangers = {slot: holder for slot, holder in claims.items() if holder not in snapshot.nodes}
        return frozenset([slot for slot, holder in strangers.items() if await self._registry.node(holder) is not None])


def _slots(snapshot: Snapshot, nodes: dict[str, Node]) -> set[str]:
    slots = {node.slot for node in nodes.values()}
    for pool in snapshot.pools.values():
        held = max((slot_index(slot) for slot in slots if slot.startswith(pool.country + "-")), default=-1)
        slots |= {slot_name(pool.country, index) for index in range(held + pool.desired + 2)}
    return slots

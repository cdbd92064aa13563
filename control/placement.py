"""Gives a new node its server, its account and its slot."""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from control.providers import Choice, Provider, ProviderError, Wish
from health.model import Node, NodeKind, NodeStatus, Pool, Protocol, new_node_id
from health.registry import Registry

log = structlog.get_logger()


class Placement:
    """Places one node at a time: two that choose at once would choose the same server. `lock` is held meanwhile."""

    def __init__(
        self,
        registry: Registry,
        providers: Mapping[str, Provider],
        machine: str,
        agent_socket: Callable[[str], str],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._providers = providers
        self._machine = machine
        self._agent_socket = agent_socket
        self._wall = wall
        self.lock = asyncio.Lock()

    def provider(self, name: str) -> Provider:
        """Raises ProviderError for one that is not configured."""
        found = self._providers.get(name)
        if found is None:
            known = ", ".join(sorted(self._providers)) or "none"
            raise ProviderError(f"provider {name!r} is not configured (there are: {known})")
        return found

    async def place(self, slot: str, pool: Pool, expected: str) -> Node | None:
        """A new node in `slot`, recorded as requested; None where another holds the slot by now.

        Raises ProviderError, RegistryError.
        """
        async with self.lock:
            choice = await self.choose(pool, Wish(pool.country, pool.protocol))
            node = self.node(slot, pool, choice, pool.protocol)
            return await self.claim(slot, node, expected)

    async def choose(self, pool: Pool, wish: Wish) -> Choice:
        """A server for a new node of `pool`. Call it, and claim the slot, under `lock`."""
        nodes = (await self._registry.nodes()).values()
        others = [node for node in nodes if not node.status.ended]
        failed = {node.vpn_server for node in nodes if node.status is NodeStatus.FAILED}
        return await self.provider(pool.provider).choose(wish, others, failed)

    def node(self, slot: str, pool: Pool, choice: Choice, protocol: Protocol) -> Node:
        """The record of a node that is only wished for yet."""
        node_id, now = new_node_id(pool.country), self._wall()
        return Node(
            id=node_id,
            country=pool.country,
            city=choice.city,
            kind=NodeKind.VPN,
            machine=self._machine,
            status=NodeStatus.REQUESTED,
            slot=slot,
            provider=pool.provider,
            account=choice.account,
            protocol=protocol,
            vpn_server=choice.server,
            endpoint=choice.endpoint,
            agent=self._agent_socket(node_id),
            requested_at=now,
            changed_at=now,
        )

    async def claim(self, slot: str, node: Node, expected: str) -> Node | None:
        """Take the slot and record the node, both or neither."""
        if not await self._registry.claim_slot(slot, node, expected):
            return None
        log.info("node_requested", node=node.id, country=node.country, slot=slot, server=node.vpn_server)
        return node

"""Gives a new node its server, its account's session and its slot."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping

import structlog

from control.accounts import Accounts, failed_there
from control.model import Container
from control.providers import Choice, Provider, ProviderError, Wish, unknown_provider
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
        self._accounts = Accounts(registry.accounts, self.limits)
        self.lock = asyncio.Lock()

    def limits(self) -> dict[str, int]:
        """Every provider's accounts, and how many sessions each has."""
        return {name: slots for one in self._providers.values() for name, slots in one.accounts().items()}

    def provider(self, name: str) -> Provider:
        """Raises ProviderError for one that is not configured."""
        found = self._providers.get(name)
        if found is None:
            raise ProviderError(unknown_provider(name, self._providers))
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
        provider = self.provider(pool.provider)
        nodes = await self._registry.nodes()
        survey = await self._accounts.survey(nodes)
        failed = {node.vpn_server: 1.0 for node in nodes.values() if failed_there(node)}
        avoid = failed | await self._accounts.penalties()
        return await provider.choose(wish, survey.holding, avoid, survey.closed)

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
            virtual=choice.virtual,
            agent=self._agent_socket(node_id),
            requested_at=now,
            changed_at=now,
        )

    async def claim(self, slot: str, node: Node, expected: str) -> Node | None:
        """Take a session of the node's account, then the slot, and record the node: all or nothing.

        None where another was faster: who asks again sees why.
        """
        try:
            await self._accounts.reserve(node)
        except ProviderError as error:
            log.info("session_not_reserved", node=node.id, slot=slot, reason=str(error))
            return None
        if not await self._registry.claim_slot(slot, node, expected):
            await self._accounts.give_back(node)
            return None
        log.info("node_requested", node=node.id, country=node.country, slot=slot, server=node.vpn_server)
        return node

    async def may_start(self, node: Node) -> None:
        """Look once more before the container of `node` starts. Raises ProviderError: its account rests, or is full."""
        await self._accounts.reserve(node)

    async def refused(self, node: Node, reason: str) -> str:
        """The VPN server refused the credentials of `node`: its account rests. Returns the reason, completed."""
        with contextlib.suppress(ProviderError):
            self.provider(node.provider).refused(node.account)
        told = await self._accounts.refused(node, reason)
        await self._registry.publish("account", node.account, node=node.id, reason=told)
        return told

    def moved(self, nodes: dict[str, Node]) -> dict[str, str]:
        """Those of `nodes` whose server has another address by now, by id, and why they do not match. Never waits."""
        return {node_id: why for one in self._providers.values() for node_id, why in one.moved(nodes).items()}

    async def settle(self, nodes: Mapping[str, Node], containers: Iterable[Container]) -> None:
        """Make the ledger of sessions agree with the nodes and with the containers of this machine."""
        await self._accounts.settle(nodes, containers)

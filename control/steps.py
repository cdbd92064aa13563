"""Does what the plan says: one idempotent step each, safe to repeat and safe beside another instance doing the same.

A step that could not be done says so in the log and leaves the world as it was; the next plan finds it there again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import structlog

from control.agents import Agents
from control.backoff import Backoff
from control.engine import (
    Engine,
    EngineError,
    EngineGoneError,
    NameTakenError,
    NotFoundError,
)
from control.exits import credentials_refused, exit_reason
from control.model import (
    Advance,
    Container,
    Create,
    Forget,
    Outcome,
    Place,
    Remove,
    RemoveOrphan,
    Step,
    Stop,
    Verdict,
    Verify,
)
from control.nodefiles import NodeFiles, NodeFilesError
from control.nodespec import STOP_SECONDS, Site, container_body, container_name
from control.placement import Placement
from control.providers import Material, ProviderError, split_endpoint
from health.agent_client import AgentClient
from health.model import NODE_ID, Node, NodeStatus, Pool
from health.registry import Registry, RegistryError

log = structlog.get_logger()

LOG_LINES = 500


class Verifier(Protocol):
    """The admission gate."""

    async def verify(self, node: Node, agent: AgentClient) -> Verdict: ...


class Steps:
    """The hands of the reconciler. `do` returns True where something changed, and never raises.

    `verdicts` holds the gate's last answer per node; `epoch` is what new containers are labelled with.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        engine: Engine,
        placement: Placement,
        files: NodeFiles,
        agents: Agents,
        gate: Verifier,
        site: Site,
        probe_name: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._placement = placement
        self._files = files
        self._agents = agents
        self._gate = gate
        self._site = site
        self._probe_name = probe_name
        self._clock = clock
        self._wall = wall
        self._serving_from: dict[str, float] = {}
        self.backoff = Backoff()
        self.verdicts: dict[str, Verdict] = {}
        self.pools: dict[str, Pool] = {}
        self.epoch = ""

    async def do(self, step: Step) -> bool:
        try:
            return await self._do(step)
        except (RegistryError, EngineError, OSError) as error:
            log.warning("step_failed", step=type(step).__name__, subject=step.key, reason=str(error))
            return False

    async def _do(self, step: Step) -> bool:
        match step:
            case Place():
                return await self._place(step)
            case Create():
                return await self._create(step.node)
            case Advance():
                return await self._advance(step)
            case Verify():
                return await self._verify(step.node)
            case Stop():
                await self._stop(step.container)
            case Remove():
                await self._remove(step)
            case RemoveOrphan():
                await self._remove_orphan(step.container)
            case Forget():
                await self._forget(step.node)
        return True

    async def settle_accounts(self, nodes: Mapping[str, Node], containers: list[Container]) -> None:
        """Make the ledger of the accounts' sessions agree with what is there. Raises RegistryError."""
        await self._placement.settle(nodes, containers)

    async def _place(self, step: Place) -> bool:
        pool = self.pools.get(step.country)
        if pool is None:
            return False
        try:
            return await self._placement.place(step.slot, pool, step.expected) is not None
        except ProviderError as error:
            delay = self.backoff.failed(step.slot, self._clock(), str(error))
            log.warning("no_server", slot=step.slot, reason=str(error), retry_s=delay)
            return False

    async def _create(self, node: Node) -> bool:
        # What the plan saw may be old: look again before anything is written.
        container = await self._find(node.id)
        current = await self._registry.node(node.id)
        if current is None or current.status is not NodeStatus.REQUESTED:
            return False
        try:
            await self._placement.may_start(node)
            container_id = container.id if container is not None else await self._make(node)
            await self._engine.start(container_id)
        except EngineGoneError:
            raise
        except (ProviderError, NodeFilesError, EngineError, ValueError) as error:
            return await self._move(node, NodeStatus.FAILED, str(error))
        return await self._move(node, NodeStatus.STARTING, "", started_at=self._wall())

    async def _make(self, node: Node) -> str:
        material = await self._placement.provider(node.provider).material(node)
        config = node_config(node, material, self._probe_name)
        await asyncio.to_thread(self._files.write, node.id, config, material.files)
        agent, files = self._files.agent_dir(node.id), self._files.config_dir(node.id)
        name = container_name(node.id)
        try:
            return await self._engine.create(name, container_body(self._site, node, self.epoch, agent, files))
        except NameTakenError:
            container = await self._find(node.id)
            if container is None:
                raise EngineError(f"the name {name} is taken by a container that is not ours") from None
            return container.id

    async def _find(self, node_id: str) -> Container | None:
        return next((found for found in await self._engine.containers() if found.node == node_id), None)

    async def _advance(self, step: Advance) -> bool:
        node, verdict, reason = step.node, step.verdict, step.reason
        if step.container is not None:
            code, output = step.container.exit_code, await self._output(step.container, 20)
            reason = exit_reason(code, output)
            if credentials_refused(code, output):
                reason = await self._placement.refused(node, reason)
        learnt: dict[str, Any] = {}
        if verdict is not None:
            # A leak leaves no proved exit address, and so nothing to drain.
            learnt = {
                "generation": verdict.generation,
                "exit_ip": "" if verdict.leak else verdict.exit_ip or node.exit_ip,
                "exit_country": verdict.exit_country or node.exit_country,
            }
        return await self._move(node, step.to, reason, **learnt)

    async def _move(self, node: Node, to: NodeStatus, reason: str, **learnt: Any) -> bool:
        changed = {"status": to, "reason": reason, "changed_at": self._wall(), **learnt}
        moved = node.model_copy(update=changed)
        if not await self._registry.advance_node(moved, node.status):
            return False
        log.info("node", node=node.id, country=node.country, status=to.value, was=node.status.value, reason=reason)
        self._count(moved)
        return True

    def _count(self, node: Node) -> None:
        now = self._clock()
        if node.status is NodeStatus.SERVING:
            self._serving_from.setdefault(node.id, now)
            self.backoff.succeeded(node.slot)
        elif node.status is NodeStatus.FAILED:
            served = now - self._serving_from.pop(node.id, now)
            self.backoff.failed(node.slot, now, node.reason, served)
        elif node.status is NodeStatus.STOPPED:
            self._serving_from.pop(node.id, None)

    async def _verify(self, node: Node) -> bool:
        client, view = self._agents.client(node.id), self._agents.views.get(node.id)
        if client is None:
            generation = view.generation if view is not None else 0
            verdict = Verdict(Outcome.UNPROVED, generation, "its agent is not reached")
        else:
            verdict = await self._gate.verify(node, client)
        old = self.verdicts.get(node.id)
        self.verdicts[node.id] = replace(verdict, at=self._clock())
        if verdict.outcome is not Outcome.PASSED and (old is None or old.reason != verdict.reason):
            log.warning("not_verified", node=node.id, outcome=verdict.outcome.value, reason=verdict.reason)
        return verdict.outcome is not Outcome.UNPROVED

    async def _stop(self, container: Container) -> None:
        with contextlib.suppress(NotFoundError):
            await self._engine.stop(container.id, STOP_SECONDS)

    async def _remove(self, step: Remove) -> None:
        text = await self._output(step.container, LOG_LINES)
        await asyncio.to_thread(self._files.save_log, step.node_id, text)
        await self._engine.remove(step.container.id)
        await asyncio.to_thread(self._files.remove, step.node_id)

    async def _remove_orphan(self, container: Container) -> None:
        # The list was read before the records: one that was recorded meanwhile is no orphan.
        if container.node and await self._registry.node(container.node) is not None:
            return
        log.warning("orphan_removed", container=container.name, node=container.node)
        await self._engine.remove(container.id)
        if NODE_ID.fullmatch(container.node):
            await asyncio.to_thread(self._files.remove, container.node)

    async def _forget(self, node: Node) -> None:
        await self._registry.release_slot(node.slot, node.id)
        await self._registry.delete_node(node.id)
        self.verdicts.pop(node.id, None)
        await asyncio.to_thread(self._files.remove, node.id)
        await asyncio.to_thread(self._files.forget_log, node.id)

    async def _output(self, container: Container, lines: int) -> str:
        try:
            return await self._engine.logs(container.id, lines)
        except EngineGoneError:
            raise
        except EngineError as error:
            return f"(no log: {error})\n"


def node_config(node: Node, material: Material, probe_name: str) -> dict[str, Any]:
    """What node.json tells the exit. Nothing secret. Raises ValueError for a record without an endpoint."""
    address, port, transport = split_endpoint(node.endpoint)
    config: dict[str, Any] = {
        "schema": 1,
        "node": node.id,
        "country": node.country,
        "protocol": str(node.protocol),
        "endpoint": {"address": address, "port": port, "transport": transport},
        "dns": list(material.dns),
        "probe_name": probe_name,
    }
    if material.address:
        config |= {"address": material.address, "server_public_key": material.server_public_key}
    return config

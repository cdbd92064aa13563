"""Does what the plan says: one idempotent step each, safe to repeat and safe beside another instance doing the same.

Docker checks no fence: an instance that was paused in the middle of a call may find that another leads. So the term is
checked again before whatever cannot be undone, and a create that was overtaken is a name that is taken. A step that
could not be done says so in the log and leaves the world as it was; the next plan finds it there again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import structlog

from control import counts
from control.agents import Agents
from control.backoff import Backoff
from control.creating import Creator, Probing
from control.engine import Engine, EngineError, EngineGoneError, NotFoundError
from control.exits import credentials_refused, exit_reason
from control.leadership import Check, LostLeadError, alone
from control.model import (
    Advance,
    Container,
    Create,
    Forget,
    Outcome,
    Place,
    Remove,
    RemoveOrphan,
    Retire,
    Step,
    Stop,
    Verdict,
    Verify,
)
from control.nodefiles import NodeFiles, NodeFilesError
from control.nodespec import STOP_SECONDS, Site
from control.placement import Placement
from control.providers import NoSlotError, ProviderError
from control.replacing import drained_first, successor, traits, wish
from control.troubles import Troubles
from health.agent_client import AgentClient
from health.model import NODE_ID, Node, NodeStatus, Pool
from health.registry import Registry, RegistryError

log = structlog.get_logger()

LOG_LINES = 500
SLOT_RETRY_S = 1.0
"""How soon a place is tried again where an account has no free session: one may be given back any time."""


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
        probing: Probing,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        backoff: Backoff | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._placement = placement
        self._files = files
        self._agents = agents
        self._gate = gate
        self._creator = Creator(engine, placement, files, site, probing)
        self._clock = clock
        self._wall = wall
        self._serving_from: dict[str, float] = {}
        self._troubles = troubles or Troubles(registry)
        self.backoff = backoff or Backoff()
        self.verdicts: dict[str, Verdict] = {}
        self.pools: dict[str, Pool] = {}
        self.epoch = ""

    async def do(self, step: Step, check: Check = alone) -> bool:
        """Do `step`. `check` raises LostLeadError where another instance leads by now."""
        try:
            changed = await self._do(step, check)
            counts.stepped(step, "done" if changed else "nothing")
            return changed
        except LostLeadError as error:
            counts.stepped(step, "given_up")
            log.warning("step_given_up", step=type(step).__name__, subject=step.key, reason=str(error))
        except (RegistryError, EngineError, OSError) as error:
            counts.stepped(step, "failed")
            log.warning("step_failed", step=type(step).__name__, subject=step.key, reason=str(error))
        return False

    async def _do(self, step: Step, check: Check) -> bool:
        if not isinstance(step, Verify):
            await check()
        match step:
            case Place():
                return await self._place(step, check)
            case Create():
                return await self._create(step.node, check)
            case Advance():
                return await self._advance(step, check)
            case Retire():
                return await self._retire(step)
            case Verify():
                return await self._verify(step.node)
            case Stop():
                await self._stop(step.container)
            case Remove():
                await self._remove(step, check)
            case RemoveOrphan():
                return await self._remove_orphan(step.container, check)
            case Forget():
                await self._forget(step.node)
        return True

    def remember(self, nodes: Mapping[str, Node]) -> None:
        """Forget what was learnt of all other nodes: another instance may have seen them end. Of those that another one
        admitted, since when they serve is told by their records."""
        for node_id in (self.verdicts.keys() | self._serving_from.keys()) - nodes.keys():
            self.verdicts.pop(node_id, None)
            self._serving_from.pop(node_id, None)
        for node_id in nodes.keys() - self._serving_from.keys():
            since = _admitted_at(nodes[node_id])
            if since is not None:
                self._serving_from[node_id] = self._clock() - max(0.0, self._wall() - since)

    async def settle_accounts(self, nodes: Mapping[str, Node], containers: list[Container]) -> None:
        """Make the ledger of the accounts' sessions agree with what is there. Raises RegistryError."""
        await self._placement.settle(nodes, containers)

    async def _place(self, step: Place, check: Check) -> bool:
        pool = self.pools.get(step.country)
        if pool is None:
            return False
        try:
            placed = await self._placed(step, pool, check)
        except NoSlotError as error:
            self.backoff.wait(step.slot, self._clock(), SLOT_RETRY_S)
            self.backoff.unplaced(step.country, str(error))
            return await self._drain_first(step.instead, str(error), check)
        except ProviderError as error:
            delay = self.backoff.failed(step.slot, self._clock(), "")
            log.warning("no_server", slot=step.slot, reason=str(error), retry_s=delay)
            self.backoff.unplaced(step.country, str(error))
            return False
        if placed:
            self.backoff.unplaced(step.country, "")
        return placed

    async def _placed(self, step: Place, pool: Pool, check: Check) -> bool:
        async with self._placement.lock:
            old = None
            if step.replaces:
                # An operator may have placed it meanwhile.
                nodes = await self._registry.nodes()
                old = nodes.get(step.replaces)
                if old is None or successor(nodes.values(), step.replaces) is not None:
                    return False
            asked = wish(pool, old)
            choice = await self._placement.choose(pool, asked)
            node = self._placement.node(step.slot, pool, choice, asked.protocol)
            await check()
            node = node.model_copy(update=traits(pool, old))
            return await self._placement.claim(step.slot, node, step.expected) is not None

    async def _drain_first(self, node_id: str, why: str, check: Check) -> bool:
        node = await self._registry.node(node_id) if node_id else None
        if node is None or node.status is not NodeStatus.SERVING:
            return False
        # Choosing a server may have taken as long as it took another to lead and to place the successor.
        await check()
        leaving = drained_first(node, why, self._wall())
        return await self._store(leaving, node.status)

    async def _create(self, node: Node, check: Check) -> bool:
        # What the plan saw may be old: look again before anything is written.
        container = await self._creator.find(node.id)
        current = await self._registry.node(node.id)
        if current is None or current.status is not NodeStatus.REQUESTED:
            return False
        try:
            container_id = container.id if container is not None else await self._creator.make(node, self.epoch)
            # The create may have taken as long as it took another to lead, end this node and free its slot.
            await check()
            await self._placement.may_start(node)
            await self._engine.start(container_id)
        except EngineGoneError:
            raise
        except (ProviderError, NodeFilesError, EngineError, ValueError) as error:
            return await self._move(node, NodeStatus.FAILED, str(error), check)
        return await self._move(node, NodeStatus.STARTING, "", check, started_at=self._wall())

    async def _advance(self, step: Advance, check: Check) -> bool:
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
        return await self._move(node, step.to, reason, check, **learnt)

    async def _retire(self, step: Retire) -> bool:
        log.info("node_to_be_replaced", node=step.node.id, country=step.node.country, reason=step.reason)
        marked = step.node.model_copy(update={"retire": step.reason})
        return await self._registry.advance_node(marked, step.node.status)

    async def _move(self, node: Node, to: NodeStatus, reason: str, check: Check, **learnt: Any) -> bool:
        await check()
        changed = {"status": to, "reason": reason, "changed_at": self._wall(), **learnt}
        return await self._store(node.model_copy(update=changed), node.status)

    async def _store(self, moved: Node, was: NodeStatus) -> bool:
        if not await self._registry.advance_node(moved, was):
            return False
        status, reason = moved.status.value, moved.reason
        log.info("node", node=moved.id, country=moved.country, status=status, was=was.value, reason=reason)
        self._count(moved)
        return True

    def _count(self, node: Node) -> None:
        now = self._clock()
        if node.status is NodeStatus.SERVING:
            self._serving_from.setdefault(node.id, now)
            self.backoff.succeeded(node.slot)
        elif node.status is NodeStatus.FAILED:
            counts.NODE_FAILURES.labels(node.country).inc()
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

    async def _remove(self, step: Remove, check: Check) -> None:
        text = await self._output(step.container, LOG_LINES)
        try:
            await asyncio.to_thread(self._files.save_log, step.node_id, text)
            await self._troubles.note("logs", "")
        except OSError as error:
            # A full disk costs the log, not the slot.
            await self._troubles.note("logs", f"the last output of exits is not kept: {error.strerror}")
        await check()
        await self._engine.remove(step.container.id)
        await asyncio.to_thread(self._files.remove, step.node_id)

    async def _remove_orphan(self, container: Container, check: Check) -> bool:
        # The list was read before the records: one that was recorded meanwhile is no orphan. Nor is one whose record
        # cannot be read here: a newer control's node may be serving.
        if container.node and await self._registry.recorded(container.node):
            return False
        await check()
        log.warning("orphan_removed", container=container.name, node=container.node)
        await self._engine.remove(container.id)
        await self._registry.publish("orphan", container.node, reason="a container that no record knows was removed")
        if NODE_ID.fullmatch(container.node):
            await asyncio.to_thread(self._files.remove, container.node)
        return True

    async def _forget(self, node: Node) -> None:
        await self._registry.release_slot(node.slot, node.id)
        await self._registry.delete_node(node.id)
        await asyncio.to_thread(self._files.remove, node.id)
        await asyncio.to_thread(self._files.forget_log, node.id)

    async def _output(self, container: Container, lines: int) -> str:
        try:
            return await self._engine.logs(container.id, lines)
        except EngineGoneError:
            raise
        except EngineError as error:
            return f"(no log: {error})\n"


def _admitted_at(node: Node) -> float | None:
    """Since when (Unix seconds) a node serves or served, as far as its record tells; None for one that never did."""
    if node.status is NodeStatus.SERVING:
        return node.changed_at
    return node.started_at if node.status is NodeStatus.DRAINING and node.exit_ip else None

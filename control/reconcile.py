"""The loop: observe, plan, begin one step for every slot; again when something changes, at least once a second.

Steps run beside the loop, one at a time for each node and slot, so that a slow one holds up nobody else. Without Redis
or without Docker nothing is touched: what runs goes on running. Several instances may run; the one that holds the
lease acts.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable

import structlog

from control import recovery
from control.agents import Agents
from control.config import ControlSettings
from control.configured import KINDS, configured
from control.engine import Engine, EngineError
from control.model import Container, Limits, Step, World, slot_index, slot_name
from control.nodefiles import NodeFiles
from control.plan import plan
from control.recovery import Keeper
from control.steps import Steps
from health.model import Node, NodeKind, NodeStatus
from health.registry import Registry, RegistryError, Snapshot

log = structlog.get_logger()

ROLE = "reconciler"
LEASE_S = 5.0
SHORTEST_PAUSE_S = 0.05
RESUBSCRIBE_S = 1.0


class Reconciler:
    """Keeps the fleet as wished. `engine` and `steps` are None where this machine runs no VPN nodes.

    `wake`, set by whoever sees a change, starts the next round. `leader`: this instance acts. `redis_trouble`,
    `engine_trouble`: why the last round was left out, or empty.
    """

    def __init__(
        self,
        *,
        settings: ControlSettings,
        registry: Registry,
        keeper: Keeper,
        files: NodeFiles,
        agents: Agents,
        engine: Engine | None = None,
        steps: Steps | None = None,
        wake: asyncio.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._keeper = keeper
        self._files = files
        self._agents = agents
        self._engine = engine
        self._steps = steps
        self._clock = clock
        self._wall = wall
        self._holder = f"{settings.machine}:{secrets.token_hex(4)}"
        self._limits = limits(settings)
        self._wake = wake or asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._since: dict[str, tuple[NodeStatus, float]] = {}
        self._swept = False
        self.leader = False
        self.redis_trouble = ""
        self.engine_trouble = ""

    def wake(self) -> None:
        """Something changed: look again at once."""
        self._wake.set()

    def trouble(self, country: str) -> str:
        """Why a wish of this country is not fulfilled yet, or empty."""
        if self._engine is None:
            return ""
        return self.engine_trouble or (self._steps.backoff.reason(country) if self._steps is not None else "")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; containers go on running. Gives the lease back."""
        watch = asyncio.create_task(self._watch(), name="engine events")
        stopping = asyncio.create_task(self._wake_on(stop), name="reconciler stop")
        try:
            while not stop.is_set():
                self._wake.clear()
                await self.tick()
                await self._pause(stop)
        finally:
            tasks = [watch, stopping, *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._agents.close()
            with contextlib.suppress(RegistryError):
                await self._registry.release(ROLE, self._holder)

    async def tick(self) -> None:
        """One round: observe, plan, begin steps. Never raises."""
        try:
            await self._round()
            self._note("redis", "")
        except RegistryError as error:
            self.leader = False
            self._note("redis", str(error))
        except Exception:
            log.exception("round_failed")

    async def settle(self) -> None:
        """Wait until the steps that were begun have ended."""
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _round(self) -> None:
        busy = frozenset(self._running)
        self.leader = await self._registry.acquire(ROLE, self._holder, max(LEASE_S, 3 * self._settings.tick))
        if not self.leader:
            return
        containers = await self._containers()
        if containers is None:
            return
        snapshot = await self._registry.snapshot()
        await self._configured_nodes(snapshot)
        if not snapshot.epoch:
            await recovery.rebuild(self._registry, await self._keeper.load(), containers, self._adopt)
            self.wake()
            return
        await self._keeper.keep(snapshot)
        if self._steps is not None:
            await self._sweep(snapshot)
            await self._steps.settle_accounts(snapshot.nodes, containers)
            world = await self._world(snapshot, containers, busy, self._steps)
            for step in plan(world):
                if step.key not in self._running:
                    self._begin(self._steps, step)

    async def _containers(self) -> list[Container] | None:
        if self._engine is None:
            return []
        try:
            found = await self._engine.containers()
        except EngineError as error:
            self._note("engine", str(error))
            return None
        self._note("engine", "")
        return found

    async def _world(
        self, snapshot: Snapshot, containers: list[Container], busy: frozenset[str], steps: Steps
    ) -> World:
        here = {container.node for container in containers}
        nodes = {
            node.id: node
            for node in snapshot.nodes.values()
            if node.kind is NodeKind.VPN and (node.machine == self._settings.machine or node.id in here)
        }
        now = self._clock()
        self._agents.follow(
            c.node for c in containers if not c.ended and c.node in nodes and not nodes[c.node].status.ended
        )
        self._since = {
            node.id: old if (old := self._since.get(node.id)) and old[0] is node.status else (node.status, now)
            for node in nodes.values()
        }
        steps.epoch, steps.pools = snapshot.epoch, snapshot.pools
        slots = {node.slot for node in nodes.values()}
        for pool in snapshot.pools.values():
            held = max((slot_index(slot) for slot in slots if slot.startswith(pool.country + "-")), default=-1)
            slots |= {slot_name(pool.country, index) for index in range(held + pool.desired + 2)}
        return World(
            now=now,
            containers=tuple(containers),
            nodes=nodes,
            pools=snapshot.pools,
            claims=await self._registry.claims(slots),
            agents=dict(self._agents.views),
            verdicts=steps.verdicts,
            since={node_id: at for node_id, (_, at) in self._since.items()},
            not_before=steps.backoff.not_before,
            busy=busy | frozenset(self._running),
            limits=self._limits,
        )

    def _begin(self, steps: Steps, step: Step) -> None:
        async def run() -> None:
            try:
                if await steps.do(step):
                    self.wake()
            except Exception:
                log.exception("step_broke", step=type(step).__name__, subject=step.key)
            finally:
                self._running.pop(step.key, None)

        self._running[step.key] = asyncio.create_task(run(), name=f"{type(step).__name__} {step.key}")

    def _adopt(self, container: Container) -> Node | None:
        settings = self._settings
        return recovery.adopted(container, settings.machine, settings.provider, self._files, self._wall())

    async def _configured_nodes(self, snapshot: Snapshot) -> None:
        wanted = configured(self._settings, self._wall())
        present = {
            node.id: node
            for node in snapshot.nodes.values()
            if node.kind in KINDS and node.machine == self._settings.machine
        }
        for node_id in present.keys() - wanted.keys():
            await self._registry.delete_node(node_id)
        for node_id in wanted.keys() - present.keys():
            await self._registry.put_node(wanted[node_id])

    async def _sweep(self, snapshot: Snapshot) -> None:
        # Files of nodes that ended while nobody looked; before the first step, so that none is being written.
        if not self._swept:
            gone = await asyncio.to_thread(self._files.sweep, set(snapshot.nodes))
            self._swept = True
            if gone:
                log.info("old_files_removed", nodes=gone)

    async def _watch(self) -> None:
        while self._engine is not None:
            try:
                async for _ in self._engine.events():
                    self.wake()
            except EngineError as error:
                self._note("engine", str(error))
            except Exception:
                log.exception("events_broke")
            await asyncio.sleep(RESUBSCRIBE_S)

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.wake()

    async def _pause(self, stop: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHORTEST_PAUSE_S):
                await stop.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._delay()):
                await self._wake.wait()

    def _delay(self) -> float:
        # Back-off ends between two ticks as well.
        now, tick = self._clock(), self._settings.tick
        due = [at - now for at in self._steps.backoff.not_before.values() if at > now] if self._steps else []
        return max(0.0, min([tick, *due]))

    def _note(self, what: str, trouble: str) -> None:
        old = self.redis_trouble if what == "redis" else self.engine_trouble
        if what == "redis":
            self.redis_trouble = trouble
        else:
            self.engine_trouble = trouble
        if trouble and not old:
            log.error("trouble", part=what, reason=trouble)
        elif old and not trouble:
            log.info("recovered", part=what)


def limits(settings: ControlSettings) -> Limits:
    """The plan's times."""
    return Limits(
        start_timeout=settings.start_timeout,
        verify_interval=settings.verify_interval,
        tunnel_grace=settings.tunnel_grace,
        drain_deadline=settings.drain_deadline,
        keep_ended=settings.keep_ended,
    )

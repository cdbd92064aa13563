"""The loop: observe, plan, begin one step for every slot; again when something changes, at least once a second.

Steps run beside the loop, one at a time for each node and slot, so that a slow one holds up nobody else. Without Redis
or without Docker nothing is touched: what runs goes on running. Several instances may run; the one that holds the
lease acts, and keeps it while it lives: an engine that hangs costs nobody the lead. Where the nodes are another
machine's, this one leaves the lead to the control there.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

import structlog

from control import counts, recovery
from control.agents import Agents
from control.config import ControlSettings
from control.configured import KINDS, configured
from control.drain import Drain
from control.engine import Engine, EngineError
from control.leadership import Leadership, LostLeadError, Term
from control.load import Carried, carried
from control.model import Container, Limits, Step, World
from control.nodefiles import NodeFiles
from control.observe import Moved, Observer
from control.plan import plan
from control.recovery import Keeper
from control.replacing import fulfilled
from control.scaling import Scaling
from control.standby import Standby
from control.steps import Steps
from control.troubles import Troubles
from health.model import Node
from health.registry import Registry, RegistryError, Snapshot

log = structlog.get_logger()

SHORTEST_PAUSE_S = 0.05
RESUBSCRIBE_S = 1.0
SCALING, DRAIN = "scaling", "drain"
COPY_S = 5.0
"""How old the copy of an instance that does not lead may be."""


class Reconciler:
    """Keeps the fleet as wished. `engine` and `steps` are None where this machine runs no VPN nodes.

    `wake`, set by whoever sees a change, starts the next round. `moved` tells what became of nodes' servers, `load`
    how many connections go through nodes (None: asks the gateways that are configured), `lacking` why the proxy at an
    address cannot be used; that one may block.
    """

    def __init__(
        self,
        *,
        settings: ControlSettings,
        registry: Registry,
        keeper: Keeper,
        files: NodeFiles,
        agents: Agents,
        moved: Moved,
        engine: Engine | None = None,
        steps: Steps | None = None,
        wake: asyncio.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        troubles: Troubles | None = None,
        load: Callable[[], Awaitable[Carried]] | None = None,
        lacking: Callable[[str], str] = lambda url: "",
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
        self._wake = wake or asyncio.Event()
        self._lacking = lacking
        self._running: dict[str, asyncio.Task[None]] = {}
        self._swept = False
        self._complete = False
        self._copy_due = 0.0
        self._troubles = troubles or Troubles(registry)
        self._standby = Standby(registry, keeper, engine, self._troubles)
        lease = max(settings.lease, 3 * settings.tick)
        self._leadership = Leadership(registry, settings.machine, lease)
        read = load or (lambda: carried(settings.gateways))
        self._drain = Drain(read, clock)
        self._scaling = Scaling(registry, self._troubles, read, settings.load_interval, clock)
        self._observer = None
        if steps is not None and engine is not None:
            self._observer = Observer(
                registry=registry,
                agents=agents,
                steps=steps,
                reached=engine.machines,
                limits=limits(settings),
                clock=clock,
                wall=wall,
                moved=moved,
            )

    @property
    def leader(self) -> bool:
        """True while this instance acts."""
        return self._leadership.term is not None

    @property
    def redis_trouble(self) -> str:
        """Why the last round was left out, or empty."""
        return self._troubles.of("redis")

    @property
    def engine_trouble(self) -> str:
        """Why the engine was not asked in the last round, or empty."""
        return self._troubles.of("engine")

    @property
    def standby(self) -> str:
        """Why this instance leaves the fleet to another machine's control, or empty; as of the last look."""
        return self._standby.reason

    async def elsewhere(self) -> str:
        """`standby` as it is now. Raises RegistryError."""
        return await self._standby.look()

    @property
    def waiting(self) -> list[str]:
        """The slots that back off now."""
        now = self._clock()
        return [slot for slot, at in self._steps.backoff.not_before.items() if at > now] if self._steps else []

    def wake(self) -> None:
        """Something changed: look again at once."""
        self._wake.set()

    def trouble(self, country: str) -> str:
        """Why a wish of this country is not fulfilled yet, or empty. Others know it from the one that leads."""
        if self._engine is None or self._steps is None:
            return ""
        own = self._steps.backoff.reason(country) if self.leader else self._troubles.of(country)
        return self.engine_trouble or own or self.standby

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; containers go on running. Gives the lease back."""
        watch = asyncio.create_task(self._watch(), name="engine events")
        keeping = asyncio.create_task(self._leadership.keep(), name="lease")
        stopping = asyncio.create_task(self._wake_on(stop), name="reconciler stop")
        try:
            while not stop.is_set():
                self._wake.clear()
                await self.tick()
                await self._pause(stop)
        finally:
            tasks = [watch, keeping, stopping, *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._agents.close()
            with contextlib.suppress(RegistryError):
                await self._leadership.resign()

    async def tick(self) -> None:
        """One round: observe, plan, begin steps. Never raises."""
        began = self._clock()
        try:
            await self._round()
            await self._troubles.note("redis", "")
            outcome = "done"
        except LostLeadError as error:
            outcome = "lost_lead"
            log.warning("round_given_up", reason=str(error))
        except RegistryError as error:
            outcome = "redis"
            await self._troubles.note("redis", str(error))
        except Exception:
            outcome = "broke"
            log.exception("round_failed")
        counts.ROUNDS.labels(outcome).inc()
        counts.ROUND_SECONDS.observe(self._clock() - began)

    async def settle(self) -> None:
        """Wait until the steps that were begun have ended."""
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _round(self) -> None:
        busy = frozenset(self._running)
        away = self.standby and await self.elsewhere()
        term = None if away else await self._leadership.renew()
        if term is None:
            await self._stand_by()
            return
        containers = await self._containers()
        tokens = await self._registry.tokens()  # before the snapshot: one with an epoch proves that they were there
        snapshot = await self._registry.snapshot()
        nodes = snapshot.nodes.values()
        if await (self._standby.judge(nodes, containers or []) if snapshot.epoch else self._standby.look()):
            await self._leadership.resign()
            return
        if containers is None:
            await self._troubles.share(self._clock())
            await self._save()
            return
        await term.check()
        await self._configured_nodes(snapshot)
        if not snapshot.epoch:
            await self._rebuild(containers, term)
            return
        self._complete = True
        await self._troubles.note("copy", await self._keeper.keep(snapshot, tokens))
        self._scale(snapshot, term)
        if self._steps is not None and self._observer is not None:
            await self._sweep(snapshot, containers)
            await self._steps.settle_accounts(snapshot.nodes, containers)
            self._steps.epoch, self._steps.pools = snapshot.epoch, snapshot.pools
            running = busy | frozenset(self._running)
            world = await self._observer.world(snapshot, containers, running, self._drain.idle)
            self._ask_who_drains(world)
            for country, pool in snapshot.pools.items():
                # What was being done while the records were read may have failed since.
                if fulfilled(pool, snapshot.nodes.values()) and not any(key.startswith(country) for key in busy):
                    self._steps.backoff.fulfilled(country)
            for step in plan(world):
                if step.key not in self._running:
                    self._begin(self._steps, step, term)
            for country in snapshot.pools:
                await self._troubles.note(country, self._steps.backoff.reason(country))
        await self._troubles.share(self._clock())

    async def _rebuild(self, containers: list[Container], term: Term) -> None:
        copy, without = await self._keeper.load()
        # Users and tokens deleted since another filled it must not come back.
        await term.check()
        told = await recovery.rebuild(self._registry, copy, containers, self._adopt, self._standby.reached, without)
        # Redis without a disk is empty at every start, and nothing is wrong; one that lost everything meanwhile is.
        log.log(logging.WARNING if self._complete else logging.INFO, "registry_refilled", reason=told)
        await self._registry.publish("restored", "registry", reason=told)
        self.wake()

    async def _containers(self) -> list[Container] | None:
        if self._engine is None:
            return []
        try:
            found = await self._engine.containers()
        except EngineError as error:
            counts.ENGINE_ERRORS.inc()
            await self._troubles.note("engine", str(error))
            return None
        await self._troubles.note("engine", "")
        return found

    async def _stand_by(self) -> None:
        await self._troubles.follow()
        # Whoever leads after an empty Redis restores from his own copy: let it not be an old one.
        if self._clock() >= self._copy_due:
            self._copy_due = self._clock() + COPY_S
            await self._save()
            await self._standby.look()

    async def _save(self) -> None:
        tokens = await self._registry.tokens()
        snapshot = await self._registry.snapshot()
        if snapshot.epoch:
            await self._troubles.note("copy", await self._keeper.keep(snapshot, tokens))

    def _scale(self, snapshot: Snapshot, term: Term) -> None:
        self._beside(SCALING, lambda: self._scaling.look(snapshot, term.check))

    def _ask_who_drains(self, world: World) -> None:
        due = self._drain.due(world.nodes, world.since)
        if due:
            self._beside(DRAIN, lambda: self._drain.ask(due))

    def _beside(self, name: str, look: Callable[[], Awaitable[bool]]) -> None:
        """Do something beside the loop, one at a time of each `name`; look again where it changed something."""

        async def run() -> None:
            try:
                if await look():
                    self.wake()
            except (RegistryError, LostLeadError) as error:
                log.warning("left_out", part=name, reason=str(error))
            except Exception:
                log.exception("broke", part=name)
            finally:
                self._running.pop(name, None)

        if name not in self._running:
            self._running[name] = asyncio.create_task(run(), name=name)

    def _begin(self, steps: Steps, step: Step, term: Term) -> None:
        async def run() -> None:
            try:
                if await steps.do(step, term.check):
                    self.wake()
            except Exception:
                log.exception("step_broke", step=type(step).__name__, subject=step.key)
            finally:
                self._running.pop(step.key, None)

        self._running[step.key] = asyncio.create_task(run(), name=f"{type(step).__name__} {step.key}")

    def _adopt(self, container: Container) -> Node | None:
        settings = self._settings
        machine = container.machine or settings.machine
        return recovery.adopted(container, machine, settings.provider, self._files, self._wall())

    async def _configured_nodes(self, snapshot: Snapshot) -> None:
        wanted = await asyncio.to_thread(configured, self._settings, self._wall(), self._lacking)
        present = {
            node.id: node
            for node in snapshot.nodes.values()
            if node.kind in KINDS and node.machine == self._settings.machine
        }
        for node_id in present.keys() - wanted.keys():
            await self._registry.delete_node(node_id)
        for node_id, node in wanted.items():
            old = present.get(node_id)
            if old is None or (old.status, old.reason) != (node.status, node.reason):
                await self._registry.put_node(node)

    async def _sweep(self, snapshot: Snapshot, containers: list[Container]) -> None:
        # Files of nodes that ended while nobody looked; before the first step, so that none is being written. What has
        # a container may still run, whether its record can be read or not.
        if not self._swept:
            keep = set(snapshot.nodes) | {container.node for container in containers}
            gone = await asyncio.to_thread(self._files.sweep, keep)
            self._swept = True
            if gone:
                log.info("old_files_removed", nodes=gone)

    async def _watch(self) -> None:
        while self._engine is not None:
            try:
                # The first word says that it is subscribed: from then on nothing is missed, so look again.
                async for _ in self._engine.events():
                    await self._troubles.note("events", "")
                    self.wake()
            except EngineError as error:
                await self._troubles.note("events", str(error))
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


def limits(settings: ControlSettings) -> Limits:
    """The plan's times."""
    return Limits(
        start_timeout=settings.start_timeout,
        verify_interval=settings.verify_interval,
        tunnel_grace=settings.tunnel_grace,
        drain_deadline=settings.drain_deadline,
        keep_ended=settings.keep_ended,
    )

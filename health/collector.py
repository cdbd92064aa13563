"""One per machine: asks the agents of its nodes once a second and writes what they say.

A node's watch (`health.watch`) measures at its own moment, so no node waits for another. The collector writes the
newest samples in one go, once a second, which is also its sign of life.

A second collector on the machine stands by (`health.lease`): it asks as well, and writes once the first is gone.
"""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog

from health import collector_numbers, score
from health.config import OPEN, CollectorSettings, MetricsSettings, RedisSettings, SpeedTestSettings
from health.exposing import Exposed
from health.lease import Lease
from health.model import Node, NodeKind, NodeStatus, Sample
from health.process import stop_signals, ticks
from health.registry import Registry, RegistryError
from health.watch import Watch

if TYPE_CHECKING:
    from health.speed_runner import SpeedRunner

log = structlog.get_logger()
# Agents that go away together (their machine's engine, say) are written together.
_TOGETHER_S = 0.05


async def run(
    settings: CollectorSettings,
    redis: RedisSettings,
    machine: str,
    metrics: MetricsSettings = OPEN,
    speed: SpeedTestSettings | None = None,
) -> None:
    """Collect for `machine` until SIGTERM or SIGINT."""
    registry = Registry.open(redis)
    collector = Collector(settings, registry, machine, _speed_tests(speed, registry, machine))
    with stop_signals() as stop:
        try:
            log.info("collector started", machine=machine)
            with Exposed(settings.metrics_listen, metrics) as exposed:
                async for _ in ticks(settings.interval, stop):
                    await collector.tick()
                    await exposed.follow(collector.lease)
        finally:
            await collector.close()
            await registry.close()
    log.info("collector ended", machine=machine)


def _speed_tests(speed: SpeedTestSettings | None, registry: Registry, machine: str) -> "SpeedRunner | None":
    if speed is None or speed.urls is None:
        return None
    from health.speed_runner import SpeedRunner  # brings an HTTP client, which costs memory

    return SpeedRunner(speed, registry, machine)


class Collector:
    """The watches of one machine's nodes."""

    def __init__(
        self, settings: CollectorSettings, registry: Registry, machine: str, speed: "SpeedRunner | None" = None
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._machine = machine
        self.lease = Lease(registry, f"collecting:{machine}", settings.lease)
        self._watches: dict[str, Watch] = {}
        self._direct: set[str] = set()
        self._urgent: asyncio.Task[None] | None = None
        self._speed = speed
        self._redis_lost = False

    async def tick(self) -> None:
        """Learn which nodes there are, write what was measured since the last tick. Goes on without Redis."""
        try:
            # A Redis that came back empty knows no nodes: no reason to let go of the agents.
            complete = bool(await self._registry.epoch())
            nodes = await self._registry.nodes()
            await self._follow(nodes, complete=complete)
            await self._write()
            collector_numbers.ROUND.set_to_current_time()
            if self._speed is not None and complete and self.lease.held:
                await self._speed.tick({i: node for i, node in nodes.items() if node.machine == self._machine})
        except RegistryError as error:
            collector_numbers.REDIS_ERRORS.inc()
            if not self._redis_lost:
                log.warning("Redis is gone; agents are watched on", reason=str(error))
            self._redis_lost = True
            return
        if self._redis_lost:
            log.info("Redis is back")
        self._redis_lost = False

    async def close(self) -> None:
        """End every watch and a speed test that runs, and let a collector that stands by take over at once."""
        if self._speed is not None:
            await self._speed.close()
        watches, self._watches = list(self._watches.values()), {}
        await asyncio.gather(*(watch.close() for watch in watches))
        if self._urgent is not None:
            await self._urgent
        with contextlib.suppress(RegistryError):
            await self.lease.give_back()

    async def _write(self) -> None:
        started = time.monotonic()
        writes = await self.lease.hold()
        # What is measured while another one writes is not kept for later. After a long stall another one may write.
        fresh = self._fresh()
        if writes and time.monotonic() - started < self._settings.lease:
            collector_numbers.NUMBERS.take(fresh)
            await self._registry.put_samples(self._machine, fresh)

    def _hurry(self) -> None:
        """What a watch just learnt need not wait for the next tick."""
        if self._urgent is None or self._urgent.done():
            self._urgent = asyncio.create_task(self._write_soon(), name="write soon")

    async def _write_soon(self) -> None:
        await asyncio.sleep(_TOGETHER_S)
        # Where Redis does not answer, the next tick says so.
        with contextlib.suppress(RegistryError):
            await self._write()

    async def _follow(self, nodes: dict[str, Node], *, complete: bool) -> None:
        ours = {n.id: n for n in nodes.values() if n.machine == self._machine and _alive(n)}
        self._direct = {i for i, node in ours.items() if node.kind is NodeKind.DIRECT}
        wanted = {i: node.agent for i, node in ours.items() if node.kind is NodeKind.VPN and node.agent}
        for node_id, watch in list(self._watches.items()):
            gone = node_id not in wanted and complete
            moved = node_id in wanted and wanted[node_id] != watch.path
            if gone or moved or watch.ended:
                await self._watches.pop(node_id).close()
        for node_id in wanted.keys() - self._watches.keys():
            self._watches[node_id] = Watch(node_id, wanted[node_id], self._settings, self._hurry)

    def _fresh(self) -> list[Sample]:
        now = time.time()
        measured = [watch.take() for watch in self._watches.values()]
        return [s for s in measured if s is not None] + [score.direct_sample(i, now) for i in self._direct]


def _alive(node: Node) -> bool:
    return not node.status.ended and node.status is not NodeStatus.REQUESTED

"""One per machine: asks the agents of its nodes once a second and writes what they say.

A node's watch keeps one connection to its agent and measures at its own moment, so no node waits for another. The
collector writes the newest samples in one go, once a second, which is also its sign of life. An agent that is gone
gives a negative sample at once; one that stays silent (a busy machine) only after three questions.
"""

import asyncio
import random
import time

import structlog
from pydantic import ValidationError

from health import collector_numbers, score
from health.agent_client import AgentClient, AgentError
from health.config import OPEN, CollectorSettings, MetricsSettings, RedisSettings
from health.exposing import exposing
from health.model import Node, NodeKind, NodeStatus, Sample
from health.process import stop_signals, ticks
from health.registry import Registry, RegistryError

log = structlog.get_logger()


async def run(settings: CollectorSettings, redis: RedisSettings, machine: str, metrics: MetricsSettings = OPEN) -> None:
    """Collect for `machine` until SIGTERM or SIGINT."""
    registry = Registry.open(redis)
    collector = Collector(settings, registry, machine)
    with stop_signals() as stop:
        try:
            log.info("collector started", machine=machine)
            async with exposing(settings.metrics_listen, metrics):
                async for _ in ticks(settings.interval, stop):
                    await collector.tick()
        finally:
            await collector.close()
            await registry.close()
    log.info("collector ended", machine=machine)


class Collector:
    """The watches of one machine's nodes."""

    def __init__(self, settings: CollectorSettings, registry: Registry, machine: str) -> None:
        self._settings = settings
        self._registry = registry
        self._machine = machine
        self._watches: dict[str, Watch] = {}
        self._direct: set[str] = set()
        self._redis_lost = False

    async def tick(self) -> None:
        """Learn which nodes there are, write what was measured since the last tick. Goes on without Redis."""
        try:
            # A Redis that came back empty knows no nodes: no reason to let go of the agents.
            complete = bool(await self._registry.epoch())
            await self._follow(await self._registry.nodes(), complete=complete)
            fresh = self._fresh()
            collector_numbers.NUMBERS.take(fresh)
            await self._registry.put_samples(self._machine, fresh)
            collector_numbers.ROUND.set_to_current_time()
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
        """End every watch."""
        watches, self._watches = list(self._watches.values()), {}
        await asyncio.gather(*(watch.close() for watch in watches))

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
            self._watches[node_id] = Watch(node_id, wanted[node_id], self._settings)

    def _fresh(self) -> list[Sample]:
        now = time.time()
        measured = [watch.take() for watch in self._watches.values()]
        return [s for s in measured if s is not None] + [score.direct_sample(i, now) for i in self._direct]


class Watch:
    """One node's agent, asked at a steady rate for as long as the watch lives."""

    def __init__(self, node_id: str, path: str, settings: CollectorSettings) -> None:
        self.path = path
        self._node = node_id
        self._settings = settings
        self._client: AgentClient | None = None
        self._newest: Sample | None = None
        self._silent = 0
        self._reached: bool | None = None
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"watch {node_id}")

    @property
    def ended(self) -> bool:
        """True where it ended by itself, which it should not."""
        return self._task.done()

    def take(self) -> Sample | None:
        """What was measured since the last call, if anything."""
        newest, self._newest = self._newest, None
        return newest

    async def close(self) -> None:
        """Stop asking and hang up."""
        self._stop.set()
        self._task.cancel()
        result = (await asyncio.gather(self._task, return_exceptions=True))[0]
        if isinstance(result, Exception):
            log.error("a watch failed", node=self._node, exc_info=result)
        self._hang_up()

    async def _run(self) -> None:
        interval = self._settings.interval
        first = random.uniform(0, interval)  # noqa: S311 - spreads the questions, keeps no secret
        async for _ in ticks(interval, self._stop, first=first):
            await self._measure()

    async def _measure(self) -> None:
        try:
            client = self._client or await self._connect()
            answer = await client.sample(self._settings.timeout)
            fixed = {"schema": 1, "node": self._node, "at": time.time(), "reachable": True}
            self._newest = Sample.model_validate({**answer, **fixed})
        except AgentError as error:
            self._failed(str(error))
        except ValidationError as error:
            self._hang_up()
            self._failed(f"nonsense in the sample's {error.errors()[0]['loc']}")
        else:
            self._silent = 0
            self._report(True, "")

    async def _connect(self) -> AgentClient:
        client = AgentClient(self.path, on_close=self._on_close)
        hello = await client.connect(self._settings.timeout)
        if hello.node != self._node:
            client.close()
            raise AgentError(f"the agent says it is {hello.node!r}")
        self._client = client
        return client

    def _on_close(self) -> None:
        self._client = None
        self._failed("agent closed")

    def _failed(self, reason: str) -> None:
        self._silent += 1
        if self._client is not None and self._silent < score.FALL:
            return
        self._hang_up()
        self._newest = score.unreachable_sample(self._node, time.time())
        self._report(False, reason)

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _report(self, reached: bool, reason: str) -> None:
        if reached and self._reached is not True:
            log.info("agent answers", node=self._node)
        elif not reached and self._reached is not False:
            log.warning("agent does not answer", node=self._node, reason=reason)
        self._reached = reached


def _alive(node: Node) -> bool:
    return not node.status.ended and node.status is not NodeStatus.REQUESTED

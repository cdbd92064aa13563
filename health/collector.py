"""One per machine: asks the agents of its nodes once a second and writes what they say.

A node's watch keeps one connection to its agent and measures at its own moment, so no node waits for another. The
collector writes the newest samples in one go, once a second, which is also its sign of life. An agent that is gone
gives a negative sample at once; one that stays silent (a busy machine) only after three questions.

An agent that says what cannot be true gives a negative sample at once, too: who is wrong in one number is not to be
believed about the kill switch. It is asked again over a new connection.

A second collector on the machine stands by (`health.lease`): it asks as well, and writes once the first is gone.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from pydantic import ValidationError

from health import collector_numbers, score
from health.agent_client import AgentClient, AgentError
from health.config import OPEN, CollectorSettings, MetricsSettings, RedisSettings, SpeedTestSettings
from health.exposing import Exposed
from health.lease import Lease
from health.model import Node, NodeKind, NodeStatus, Sample
from health.process import stop_signals, ticks
from health.registry import Registry, RegistryError

if TYPE_CHECKING:
    from health.speed_runner import SpeedRunner

log = structlog.get_logger()
# Agents that go away together (their machine's engine, say) are written together.
_TOGETHER_S = 0.05
_MUCH_SLOWER_MS = 100.0


class _NonsenseError(Exception):
    """An agent said what cannot be true."""


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
                    await exposed.show(not collector.lease.beside)
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


class Watch:
    """One node's agent, asked at a steady rate for as long as the watch lives, and at once when its tunnel changes.

    `urgent()` is called when it said, or its silence says, what should not wait.
    """

    def __init__(self, node_id: str, path: str, settings: CollectorSettings, urgent: Callable[[], None]) -> None:
        self.path = path
        self._node = node_id
        self._settings = settings
        self._urgent = urgent
        self._refused = 0
        self._before: Sample | None = None
        self._extra: asyncio.Task[None] | None = None
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
        tasks = [self._task] if self._extra is None else [self._task, self._extra]
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
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
            if answer.get("node", self._node) != self._node:
                raise _NonsenseError("it speaks of another node")
            known = {"schema": 1, "node": self._node, "at": time.time(), "reachable": True, "refused": self._refused}
            self._take(Sample.model_validate({**answer, **known}))
        except AgentError as error:
            self._failed(str(error))
        except ValidationError as error:
            self._refuse(f"its {'.'.join(str(part) for part in error.errors()[0]['loc'])[:100]} cannot be")
        except _NonsenseError as error:
            self._refuse(str(error))
        else:
            self._silent = 0
            self._report(True, "")

    def _take(self, sample: Sample) -> None:
        before, self._before = self._before, sample
        self._newest = sample
        if before is not None and _worth_telling(before, sample):
            self._urgent()

    async def _connect(self) -> AgentClient:
        client = AgentClient(self.path, on_close=self._on_close, on_state=self._on_state)
        hello = await client.connect(self._settings.timeout)
        if hello.node != self._node:
            client.close()
            raise _NonsenseError(f"it says it is {hello.node[:20]!r}")
        self._client = client
        return client

    def _on_state(self, _tunnel: str, _generation: int) -> None:
        if self._extra is None or self._extra.done():
            self._extra = asyncio.create_task(self._measure(), name=f"changed {self._node}")

    def _on_close(self) -> None:
        self._client = None
        self._failed("agent closed")
        self._urgent()

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        if self._refused == 1:
            log.warning("sample refused", node=self._node, reason=reason)
        self._hang_up()
        self._newest = self._unreachable()

    def _failed(self, reason: str) -> None:
        self._silent += 1
        if self._client is not None and self._silent < score.FALL:
            return
        self._hang_up()
        self._newest = self._unreachable()
        self._report(False, reason)

    def _unreachable(self) -> Sample:
        return score.unreachable_sample(self._node, time.time()).model_copy(update={"refused": self._refused})

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


def _worth_telling(before: Sample, after: Sample) -> bool:
    """Another state, or twice as slow as a moment ago."""
    changed = any(getattr(before, name) != getattr(after, name) for name in ("tunnel", "generation", "kill_switch"))
    was, now = before.connect_ms, after.connect_ms
    return changed or (was is not None and now is not None and now > max(2 * was, was + _MUCH_SLOWER_MS))


def _alive(node: Node) -> bool:
    return not node.status.ended and node.status is not NodeStatus.REQUESTED

"""One leads: turns the newest samples into scores, once a second (the formula is in `health.score`).

A collector that is gone says nothing about its nodes: they keep their last score. While it lives, a node without a
sample counts as unreachable after three looks in a row.
"""

import contextlib
import secrets
import time

import structlog

from health import score, scorer_numbers
from health.config import OPEN, MetricsSettings, RedisSettings, ScorerSettings
from health.exposing import exposing
from health.model import Node, NodeKind, Protocol, Sample, Score
from health.process import stop_signals, ticks
from health.registry import Registry, RegistryError

log = structlog.get_logger()
ROLE = "scorer"


async def run(settings: ScorerSettings, redis: RedisSettings, metrics: MetricsSettings = OPEN) -> None:
    """Score, or stand by, until SIGTERM or SIGINT."""
    registry = Registry.open(redis)
    scorer = Scorer(settings, registry)
    with stop_signals() as stop:
        try:
            log.info("scorer started")
            async with exposing(settings.metrics_listen, metrics):
                async for _ in ticks(settings.interval, stop):
                    await scorer.tick()
        finally:
            await scorer.close()
            await registry.close()
    log.info("scorer ended")


class Book:
    """What is remembered of each node, and what follows from its newest sample. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._states: dict[str, score.State] = {}
        self._scores: dict[str, Score] = {}
        self._missing: dict[str, int] = {}

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._states

    @property
    def scores(self) -> list[Score]:
        """The last score of every node that has one."""
        return list(self._scores.values())

    def begin(self, node_id: str, stored: Score | None, now: float) -> None:
        """A node not seen before: goes on from its stored score, if there is one."""
        self._states[node_id] = score.State(at=now)
        if stored is not None:
            self._states[node_id] = score.restore(stored, now)
            self._scores[node_id] = stored

    def keep(self, node_ids: set[str]) -> None:
        """Forget every other node."""
        for node_id in self._states.keys() - node_ids:
            del self._states[node_id]
            self._scores.pop(node_id, None)
            self._missing.pop(node_id, None)

    def take(self, sample: Sample, now: float) -> None:
        """Judge a sample, unless it is the one judged last."""
        self._missing.pop(sample.node, None)
        last = self._scores.get(sample.node)
        if last is None or last.at != sample.at:
            self._states[sample.node], self._scores[sample.node] = score.judge(self._states[sample.node], sample, now)

    def miss(self, node_id: str, at: float, now: float) -> None:
        """No sample, though somebody measures there."""
        missing = self._missing.get(node_id, 0) + 1
        if missing >= score.FALL:
            self.take(score.unreachable_sample(node_id, at), now)
        self._missing[node_id] = missing

    def pardon(self, node_id: str) -> None:
        """No sample, and nobody measures there."""
        self._missing.pop(node_id, None)


class Scorer:
    """Leads or stands by; one `tick` a second."""

    def __init__(self, settings: ScorerSettings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._holder = secrets.token_hex(8)
        self._book = Book()
        self._leading: bool | None = None
        self._redis_lost = False

    async def tick(self) -> None:
        """Renew the lease; read, compute and write where it is ours. Goes on without Redis."""
        started = time.monotonic()
        try:
            if not await self._leads():
                return
            await self._update()
            # After a long stall somebody else may lead already.
            if time.monotonic() - started < self._settings.lease:
                await self._registry.put_scores(self._book.scores)
                scorer_numbers.written(self._book.scores, time.time(), time.monotonic() - started)
        except RegistryError as error:
            scorer_numbers.REDIS_ERRORS.inc()
            if not self._redis_lost:
                log.warning("Redis is gone; scores stand still", reason=str(error))
            self._redis_lost = True
            return
        if self._redis_lost:
            log.info("Redis is back")
        self._redis_lost = False

    async def close(self) -> None:
        """Give the lease back, so that a standby need not wait for its end."""
        if self._leading:
            with contextlib.suppress(RegistryError):
                await self._registry.release(ROLE, self._holder)

    async def _leads(self) -> bool:
        leads = await self._registry.acquire(ROLE, self._holder, self._settings.lease)
        if leads != self._leading:
            log.info("leading" if leads else "standing by", role=ROLE)
            self._book = Book()
            scorer_numbers.leading(leads)
        self._leading = leads
        return leads

    async def _update(self) -> None:
        nodes = {i: n for i, n in (await self._registry.nodes()).items() if _scored(n)}
        stored = await self._registry.scores(i for i in nodes if i not in self._book)
        # In this order: a sample that is missing afterwards was not written although the collector lived.
        collected = await self._registry.collectors({node.machine for node in nodes.values()})
        samples = await self._registry.samples(nodes)
        now, at = time.monotonic(), time.time()
        self._book.keep(set(nodes))
        for node_id, node in nodes.items():
            if node_id not in self._book:
                self._book.begin(node_id, stored.get(node_id), now)
            if node_id in samples:
                self._book.take(_measured(node, samples[node_id]), now)
            elif node.kind is NodeKind.DIRECT:
                self._book.take(score.direct_sample(node_id, at), now)
            elif node.machine in collected:
                self._book.miss(node_id, at, now)
            else:
                self._book.pardon(node_id)


def _scored(node: Node) -> bool:
    return not node.status.ended and node.kind is not NodeKind.UPSTREAM


def _measured(node: Node, sample: Sample) -> Sample:
    return sample if node.protocol is Protocol.WIREGUARD else score.without_handshake(sample)

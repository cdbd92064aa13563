"""One leads: turns the newest samples and the gateways' reports into scores, once a second.

The formula is in `health.score`, who is left out for being worse than its pool in `health.outliers`, what is remembered
between two looks in `health.book`.
"""

import contextlib
import time
from collections.abc import Mapping

import structlog

from health import scorer_metrics, scorer_numbers
from health.book import Book
from health.config import OPEN, MetricsSettings, RedisSettings, ScorerSettings
from health.exposing import Exposed
from health.lease import Lease
from health.model import Node
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
            with Exposed(settings.metrics_listen, metrics) as exposed:
                async for _ in ticks(settings.interval, stop):
                    await scorer.tick()
                    await exposed.follow(scorer.lease)
        finally:
            await scorer.close()
            await registry.close()
    log.info("scorer ended")


class Scorer:
    """Leads or stands by; one `tick` a second."""

    def __init__(self, settings: ScorerSettings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self.lease = Lease(registry, ROLE, settings.lease)
        self._book = Book()
        self._told = scorer_metrics.Told()
        self._redis_lost = False

    async def tick(self) -> None:
        """Renew the lease; read, compute and write where it is ours. Goes on without Redis."""
        started = time.monotonic()
        try:
            if not await self._leads():
                return
            nodes = await self._registry.nodes()
            await self._look({i: node for i, node in nodes.items() if not node.status.ended})
            # After a long stall somebody else may lead already.
            if time.monotonic() - started < self._settings.lease:
                await self._registry.put_scores(self._book.scores)
                self._told.looked(self._book, nodes)
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
        with contextlib.suppress(RegistryError):
            await self.lease.give_back()

    async def _leads(self) -> bool:
        led = self.lease.held
        leads = await self.lease.hold()
        if leads != led:
            self._book = Book()
            self._told.begin()
            scorer_numbers.leading(leads)
        return leads

    async def _look(self, nodes: Mapping[str, Node]) -> None:
        begun = [i for i in nodes if i not in self._book]
        stored = await self._registry.scores(begun)
        told = await self._registry.reports.read(nodes, {node.machine for node in nodes.values()})
        now = time.monotonic()
        for node_id in begun:
            self._book.begin(node_id, stored.get(node_id), now)
        self._book.look(nodes, told, now, time.time())

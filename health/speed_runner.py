"""The collector's part in speed tests: takes one at a time, measures beside everything else, writes what came of it.

Also asks for those that are due by the schedule. Without Redis nothing is begun; a result that cannot be written is
kept until its test is over.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from health import speed
from health.config import SpeedTestSettings
from health.model import Node, NodeKind, NodeStatus
from health.reasons import Reason
from health.registry import Registry, RegistryError
from health.speed import Result, Test
from health.speed_measure import Measured, longest, measure
from health.speed_metrics import Told

log = structlog.get_logger()
# A test is over for everybody else so many seconds after it must have ended here.
MARGIN_S = 5.0
Measure = Callable[[SpeedTestSettings, str, str], Awaitable[Measured]]


@dataclass(slots=True)
class _Running:
    test: Test
    task: "asyncio.Task[Measured]"
    until: float
    result: Result | None = None


class SpeedRunner:
    """The speed tests of one machine; one `tick` a second, with the machine's nodes."""

    def __init__(
        self, settings: SpeedTestSettings, registry: Registry, machine: str, measure: Measure = measure
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._machine = machine
        self._measure = measure
        self._name = secrets.token_hex(8)
        self._running: _Running | None = None
        self._told = Told()
        self._scheduled_to: float | None = None

    async def tick(self, nodes: Mapping[str, Node]) -> None:
        """Go on with what runs; else take what waits. Raises RegistryError."""
        self._told.keep(nodes)
        if self._running is not None:
            await self._go_on(self._running, nodes)
        if self._settings.urls is None:
            return
        await self._schedule(nodes)
        if self._running is None:
            await self._take(nodes)

    async def close(self) -> None:
        """Give up what runs, and say so."""
        running, self._running = self._running, None
        if running is None:
            return
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
        stopped = Measured(reason=Reason.SHUTDOWN, error="the collector was stopped in the middle of the test")
        result = running.result or _result_of(running.test, stopped)
        with contextlib.suppress(RegistryError):
            await self._registry.speed.end(self._machine, result, self._name)

    async def _go_on(self, running: _Running, nodes: Mapping[str, Node]) -> None:
        if not running.task.done():
            node = nodes.get(running.test.node)
            if node is not None and node.status is NodeStatus.SERVING:
                return
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
        running.result = running.result or self._result(running)
        # An answer of Redis that was lost is no reason to say so for ever.
        if time.monotonic() < running.until and not await self._registry.speed.end(
            self._machine, running.result, self._name
        ):
            log.warning("a speed test's result came too late", node=running.test.node)
        self._running = None

    def _result(self, running: _Running) -> Result:
        test, task = running.test, running.task
        if task.cancelled():
            measured = Measured(reason=Reason.NODE_LOST, error="the node stopped serving in the middle of the test")
        elif (broken := task.exception()) is not None:
            log.error("a speed test failed", node=test.node, exc_info=broken)
            measured = Measured(reason=Reason.INTERNAL, error="internal error, see the collector's log")
        else:
            measured = task.result()
        result = _result_of(test, measured)
        self._told.take(result, measured, time.time())
        log.info("speed test", **result.model_dump(mode="json", exclude={"schema_", "at"}))
        return result

    async def _schedule(self, nodes: Mapping[str, Node]) -> None:
        now, every = time.time(), self._settings.every_hours * 3600
        before = self._scheduled_to
        if before is not None and every:
            for node in nodes.values():
                if _testable(node) and speed.due(node.id, before, now, every):
                    await self._registry.speed.ask(self._machine, node.id, node.country)
        self._scheduled_to = now

    async def _take(self, nodes: Mapping[str, Node]) -> None:
        seconds = longest(self._settings) + MARGIN_S
        test = await self._registry.speed.take(self._machine, self._name, seconds)
        if test is None:
            return
        node = nodes.get(test.node)
        if node is None or not _testable(node):
            error = f"the node is {node.status.value}" if node is not None else "there is no such node here"
            result = _result_of(test, Measured(reason=Reason.NODE_DOWN, error=error))
            await self._registry.speed.end(self._machine, result, self._name)
            return
        work = self._measure(self._settings, node.id, node.agent)
        task = asyncio.ensure_future(work)
        self._running = _Running(test, task, time.monotonic() + seconds)


def _testable(node: Node) -> bool:
    return node.kind is NodeKind.VPN and node.status is NodeStatus.SERVING and bool(node.agent)


def _result_of(test: Test, measured: Measured) -> Result:
    return Result(
        id=test.id,
        node=test.node,
        country=test.country,
        download_mbps=measured.download_mbps,
        upload_mbps=measured.upload_mbps,
        latency_ms=measured.latency_ms,
        reason=measured.reason,
        error=measured.error[:500],
    )

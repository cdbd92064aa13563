"""A gateway worker: keeps its picture of the fleet fresh, accepts, tells its supervisor how it is, drains on SIGTERM.

It accepts once it knows the fleet and has reached its nodes: until then the other workers have the clients.
"""

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator

import structlog

from gateway import compiled, metrics, start
from gateway.auth import Authenticator
from gateway.child import LINE_LIMIT, UNREAD_BYTES
from gateway.connection_log import ConnectionLog
from gateway.following import follow
from gateway.guesses import Word, read_word, write_word
from gateway.identity import Identifier
from gateway.limits import Limiter
from gateway.line_writer import LineWriter
from gateway.listener import Listener
from gateway.metrics import Metrics
from gateway.ourselves import Ourselves
from gateway.poller import Poller
from gateway.pools import Fleet
from gateway.reporter import Reporter
from gateway.resources import Budget, raise_descriptor_limit
from gateway.stock import Budget as StockBudget
from gateway.sweep import Sweep
from gateway.upstream import Routes
from gateway.worker import Worker
from health import logs
from health.process import ticks
from health.registry import Registry

log = structlog.get_logger()

REPORT_S = 1.0
PIPES = 32  # half of what pipe(7) lets an unprivileged user have at full size
# Nobody serves while a gateway starts: then clients are told that there is no exit, rather than left waiting.
ALONE_WAITS_S = 1.0
LINKS_WITHIN_S = 5.0  # where others have the clients meanwhile
_LOOK_S = 0.01
_LAST_WORD_S = 1.0


class Service:
    """One worker at work."""

    def __init__(
        self, told: start.Start, worker: Worker, budget: Budget, lines: LineWriter, channel: asyncio.StreamWriter
    ) -> None:
        self._told = told
        self._worker = worker
        self._lines = lines
        self._channel = channel
        self._listeners: list[Listener] = []
        self._most = min(budget.connections, told.settings.max_connections or budget.connections)
        self._gauges: dict[str, float] = {"descriptors_limit": budget.descriptors}

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, then let the clients end, and cut them after `drain_timeout` seconds."""
        opening = asyncio.create_task(self._open(), name="open")
        reports = asyncio.create_task(self._report(stop), name="report")
        for task in (opening, reports):
            task.add_done_callback(_say_why)
        await stop.wait()
        self._worker.drain()
        opening.cancel()
        await asyncio.gather(opening, reports, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self.tell()
        log.info("worker draining", connections=self._worker.metrics.open)
        await self._drain()
        self.tell()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await self._channel.drain()

    def tell(self, *, asked: bool = False) -> None:
        """Send this worker's state, unless the supervisor has not read the last one yet."""
        if self._channel.transport.get_write_buffer_size() == 0:
            self._channel.write(json.dumps(self._state(asked)).encode() + b"\n")

    def _state(self, asked: bool) -> dict[str, object]:
        numbers, fleet = self._worker.metrics, self._worker.fleet
        numbers.log_lines_dropped = self._lines.dropped
        self._gauges["open_connections"] = numbers.open
        self._gauges["udp_associations"] = numbers.udp_associations
        self._gauges["snapshot_age_seconds"] = fleet.age
        self._gauges["usable_nodes"] = fleet.usable
        if asked:
            self._gauges["descriptors_open"] = _descriptors()
        return {
            "listening": bool(self._listeners),
            "ready": fleet.ready and not self._worker.draining,
            "nodes": numbers.known_nodes(fleet.snapshot.nodes, time.monotonic()),
            "gauges": self._gauges,
            "carried": {node: link.in_flight for node, link in fleet.links.items()},
            "panic": fleet.roster.panic(time.monotonic()),
            "counters": metrics.to_json(numbers.counters()),
        }

    async def _report(self, stop: asyncio.Event) -> None:
        async for _ in ticks(REPORT_S, stop):
            for listener in self._listeners:
                listener.favour()
            self.tell()

    async def _open(self) -> None:
        await _know_the_fleet(self._worker.fleet, ALONE_WAITS_S if self._told.alone else None)
        worker = self._worker
        for descriptor in self._told.sockets:
            sock = socket.socket(fileno=descriptor)
            self._listeners.append(Listener(sock, worker, self._most))
        self.tell(asked=True)
        log.info("worker listening", pid=os.getpid(), most_connections=self._most, compiled=compiled.used())

    async def _drain(self) -> None:
        worker = self._worker
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(worker.settings.drain_timeout):
                await worker.empty.wait()
        for session in list(worker.sessions):
            session.abort()
        await asyncio.sleep(0)


async def _know_the_fleet(fleet: Fleet, patience: float | None) -> None:
    """Wait for a snapshot, `patience` seconds or for ever, and as long, or a moment, for the links to its nodes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while not fleet.ready:  # noqa: ASYNC110 - once in the life of a worker
                await asyncio.sleep(_LOOK_S)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINKS_WITHIN_S if patience is None else patience):
            while not all(link.usable for link in fleet.links.values()):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)


def _descriptors() -> int:
    # Since Linux 6.2 the size of the directory is the number; counting 20,000 takes 10 ms.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


async def run(channel: socket.socket) -> None:
    """Be a worker of the supervisor at the other end of `channel`, until SIGTERM or its end."""
    reader, writer = await asyncio.open_unix_connection(sock=channel, limit=LINE_LIMIT)
    told = start.read(await reader.readline())
    lines = LineWriter(sys.stderr.fileno())
    logs.configure(told.log_level, lines)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        budget = Budget(raise_descriptor_limit(), PIPES)
        auth = _authenticator(told, writer)
        async with _worker(told, lines, budget, auth) as worker:
            service = Service(told, worker, budget, lines, writer)
            asked = asyncio.create_task(_answer(reader, service, auth, stop), name="answer")
            # What is loaded stays: else all clients wait some 8 ms now and then while the collector walks through it.
            gc.collect()
            gc.freeze()
            await service.run(stop)
            asked.cancel()
    finally:
        writer.close()
        lines.close()


async def _answer(reader: asyncio.StreamReader, service: Service, auth: Authenticator, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while line := await reader.readline():
            if line == b"\n":
                service.tell(asked=True)
            else:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    auth.hear(read_word(json.loads(line)["guess"]))
    stop.set()


def _authenticator(told: start.Start, channel: asyncio.StreamWriter) -> Authenticator:
    if told.failures is None:
        return Authenticator()

    def tell(word: Word) -> None:
        if not channel.is_closing() and channel.transport.get_write_buffer_size() < UNREAD_BYTES:
            channel.write(json.dumps({"guess": write_word(word)}).encode() + b"\n")

    return Authenticator(tell=tell, failures=told.failures)


@contextlib.asynccontextmanager
async def _worker(told: start.Start, lines: LineWriter, budget: Budget, auth: Authenticator) -> AsyncIterator[Worker]:
    """Everything that sessions share, from the first read of the registry to the last close."""
    settings = told.settings
    poller = Poller(asyncio.get_running_loop())
    fleet = Fleet(
        told.machine,
        routes=Routes(told.machine, settings.machines, settings.upstream_passwords),
        stocks=StockBudget(budget.stock),
        ourselves=Ourselves((*settings.listen, settings.metrics_listen), settings.allow_targets),
    )
    registry = Registry.open(told.redis)
    limiter = Limiter(registry, lambda: fleet.snapshot.users)
    logged = settings.log_connections and told.log_level in ("debug", "info")
    worker = Worker(
        settings=settings,
        poller=poller,
        fleet=fleet,
        identifier=Identifier(settings, auth, fleet),
        limiter=limiter,
        metrics=Metrics(),
        log=ConnectionLog(lines.add if logged else None),
        pipes=budget.pipes,
        places=budget.connections,
    )
    sweep = Sweep(worker)
    # All workers of a gateway are children of one supervisor.
    reporter = Reporter(registry, fleet, worker.metrics, f"{told.machine}:{os.getppid()}")
    running = [
        asyncio.create_task(follow(fleet, registry), name="snapshot"),
        asyncio.create_task(limiter.run(), name="limits"),
        asyncio.create_task(reporter.run(), name="reports"),
    ]
    for task in running:
        task.add_done_callback(_say_why)
    try:
        yield worker
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        sweep.close()
        await fleet.close()
        await limiter.close()
        await reporter.close()
        await registry.close()
        auth.close()
        poller.close()


def _say_why(task: asyncio.Task[None]) -> None:
    """A part that must not end has ended: the supervisor starts another worker."""
    if not task.cancelled() and task.exception() is not None:
        log.error("worker failed", exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)

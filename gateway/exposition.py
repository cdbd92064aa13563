"""How a gateway's numbers are shown: Prometheus' text format, and the small HTTP listener for `/metrics` and `/ready`.

Knows nothing of where the numbers come from.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import metrics
from gateway.metrics import BUCKETS, Counters, Rows
from gateway.resources import listening_socket

_PREFIX = "vpnexit_gateway_"
_REQUEST_WITHIN_S = 5.0
_READ_SIZE = 4096

GAUGES = {
    "open_connections": "Client connections open",
    "udp_associations": "SOCKS5 UDP associations open",
    "descriptors_open": "Descriptors the workers have open",
    "descriptors_limit": "Descriptors the workers may have open",
    "snapshot_age_seconds": "Since the fleet was last read, by the worker that is latest",
    "workers": "Worker processes",
}


class _Numbers(Collector):
    def __init__(self, counters: Counters, gauges: Mapping[str, float], restarts: int) -> None:
        self._counters = counters
        self._gauges = gauges
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        yield from self._connections()
        accepted, dropped = self._rows(metrics.TOTALS).get((), (0, 0))
        yield _single("accepted_connections", "Client connections accepted", accepted)
        yield _single("log_lines_dropped", "Log lines that could not be written", dropped)
        yield _single("worker_restarts", "Workers that ended unasked and were started again", self._restarts)
        yield self._counter(metrics.DIALS, "Dials that succeeded", ("country", "node"))
        yield self._counter(metrics.DIAL_FAILURES, "Dials that failed", ("country", "node", "reason"))
        yield self._histogram(metrics.DIAL_SECONDS, "From choosing a node to a connected target")
        yield self._histogram(metrics.FIRST_BYTE_SECONDS, "From a connected target to the first byte from it")
        yield self._counter(metrics.REFUSALS, "Clients refused", ("reason",))
        yield self._counter(metrics.PAUSES, "How often a worker stopped accepting for a moment", ("reason",))
        yield self._counter(metrics.DATAGRAMS_DROPPED, "SOCKS5 datagrams not passed on", ("direction", "reason"))
        for name, value in self._gauges.items():
            yield GaugeMetricFamily(_PREFIX + name, GAUGES[name], value)

    def _rows(self, name: str) -> Rows:
        return self._counters.get(name, {})

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> CounterMetricFamily:
        family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
        for key, (count,) in self._rows(name).items():
            family.add_metric(key, count)
        return family

    def _histogram(self, name: str, text: str) -> HistogramMetricFamily:
        family = HistogramMetricFamily(_PREFIX + name, text, labels=("country",))
        for key, (*counts, total) in self._rows(name).items():
            so_far, buckets = 0.0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                so_far += count
                buckets.append((bound, so_far))
            family.add_metric(key, buckets, total)
        return family

    def _connections(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            _PREFIX + "connections", "Client connections ended", labels=("country", "node", "reason")
        )
        carried: dict[tuple[str, str], list[float]] = {}
        for (country, node, reason), (count, up, down) in self._rows(metrics.CONNECTIONS).items():
            ended.add_metric((country, node, reason), count)
            sums = carried.setdefault((country, node), [0, 0])
            sums[0] += up
            sums[1] += down
        yield ended
        family = CounterMetricFamily(_PREFIX + "bytes", "Bytes carried", labels=("country", "node", "direction"))
        for key, (up, down) in carried.items():
            family.add_metric((*key, "up"), up)
            family.add_metric((*key, "down"), down)
        yield family


def _single(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, text, value)


def exposition(counters: Counters, gauges: Mapping[str, float], restarts: int) -> bytes:
    """Everything in Prometheus' text format. `gauges` has keys of GAUGES, `restarts` is of workers."""
    registry = CollectorRegistry()
    registry.register(_Numbers(counters, gauges, restarts))
    return generate_latest(registry)


class Monitor:
    """Answers `GET /metrics` with what `show` gives, and `GET /ready` with 200 while `ready`, else 503."""

    def __init__(self, ready: Callable[[], bool], show: Callable[[], Awaitable[bytes]]) -> None:
        self._ready = ready
        self._show = show
        self._server: asyncio.Server | None = None
        self.address = ""

    async def listen(self, address: str) -> None:
        """Listen on `host:port`, and no longer where it listened before. Raises OSError."""
        if address == self.address:
            return
        server = await asyncio.start_server(self._serve, sock=listening_socket(address))
        self.close()
        self._server, self.address = server, address

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
            async with asyncio.timeout(_REQUEST_WITHIN_S):
                connection = h11.Connection(h11.SERVER)
                request = await _next_request(connection, reader)
                if request is not None:
                    writer.write(await self._answer(connection, request))
                    await writer.drain()
        writer.close()

    async def _answer(self, connection: h11.Connection, request: h11.Request) -> bytes:
        status, kind, body = 404, "text/plain", b"there are /metrics and /ready\n"
        if request.method not in (b"GET", b"HEAD"):
            status, body = 405, b"only GET\n"
        elif request.target.split(b"?")[0] == b"/metrics":
            status, kind, body = 200, CONTENT_TYPE_LATEST, await self._show()
        elif request.target == b"/ready":
            status, body = (200, b"ready\n") if self._ready() else (503, b"not ready\n")
        fields = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
        head = connection.send(h11.Response(status_code=status, headers=fields)) or b""
        return head if request.method == b"HEAD" else head + body


async def _next_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_SIZE))
        else:
            return event if isinstance(event, h11.Request) else None

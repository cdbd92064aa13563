"""How a gateway's numbers are shown: in Prometheus' text format. Knows nothing of where they come from."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import metrics
from gateway.metrics import BUCKETS, Counters, Rows
from health.reasons import WIRE, Fault

_PREFIX = "vpnexit_gateway_"
# What can happen is shown before it does, as 0: a number that first appears with its first event shows no rise.
_REFUSALS = [(reason.value,) for reason, wire in WIRE.items() if wire.fault in (Fault.CLIENT, Fault.NO_NODE)]
_PAUSES = [("limit",), ("descriptors",)]

GAUGES = {
    "open_connections": "Client connections open",
    "udp_associations": "SOCKS5 UDP associations open",
    "descriptors_open": "Descriptors the workers have open",
    "descriptors_limit": "Descriptors the workers may have open",
    "snapshot_age_seconds": "Since the fleet was last read, by the worker that is latest",
    "usable_nodes": "Nodes that can be chosen, by the worker that has the fewest",
    "workers": "Worker processes",
}


class _Numbers(Collector):
    def __init__(
        self,
        counters: Counters,
        gauges: Mapping[str, float],
        restarts: int,
        carried: Mapping[str, int],
        panic: Mapping[str, bool],
    ) -> None:
        self._counters = counters
        self._gauges = gauges
        self._restarts = restarts
        self._carried = carried
        self._panic = panic

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
        yield self._counter(metrics.REFUSALS, "Clients refused", ("reason",), _REFUSALS)
        yield self._counter(metrics.PAUSES, "How often a worker stopped accepting for a moment", ("reason",), _PAUSES)
        yield self._counter(metrics.DATAGRAMS_DROPPED, "SOCKS5 datagrams not passed on", ("direction", "reason"))
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(_PREFIX + name, text, self._gauges.get(name, 0.0))

        open_now = GaugeMetricFamily(_PREFIX + "node_connections", "Connections through a node now", labels=("node",))
        for node, count in self._carried.items():
            open_now.add_metric((node,), count)
        yield open_now

        panic = GaugeMetricFamily(
            _PREFIX + "pool_panic",
            "1 while more of a country's nodes are bad than a worker may leave out of the choice",
            labels=("country",),
        )
        for country, there in self._panic.items():
            panic.add_metric((country,), there)
        yield panic

    def _rows(self, name: str) -> Rows:
        return self._counters.get(name, {})

    def _counter(
        self, name: str, text: str, labels: tuple[str, ...], known: Iterable[tuple[str, ...]] = ()
    ) -> CounterMetricFamily:
        family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
        rows: Rows = {key: [0] for key in known}
        for key, (count,) in (rows | self._rows(name)).items():
            family.add_metric(key, count)
        return family

    def _histogram(self, name: str, text: str) -> HistogramMetricFamily:
        family = HistogramMetricFamily(_PREFIX + name, text, labels=("country",))
        for key, (*counts, total) in self._rows(name).items():
            if len(counts) != len(BUCKETS) + 1:  # workers that were started anew may have other ones
                continue
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


def exposition(
    counters: Counters,
    gauges: Mapping[str, float],
    restarts: int,
    carried: Mapping[str, int] | None = None,
    panic: Mapping[str, bool] | None = None,
) -> bytes:
    """Everything in Prometheus' text format.

    `gauges` has keys of GAUGES, `restarts` is of workers, `carried` says how many connections are open through a node,
    `panic` of which country more nodes are bad than may be left out.
    """
    registry = CollectorRegistry()
    registry.register(_Numbers(counters, gauges, restarts, carried or {}, panic or {}))
    return generate_latest(registry)

"""/metrics: control in Prometheus' text format. Open where the listener is loopback; elsewhere it takes scope read."""

from collections.abc import Callable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control.api.board import Picture
from control.api.bodies import Empty, NoQuery
from control.api.table import Call, Table
from control.api.views import STATUS
from control.fleet import FleetError
from health.model import NodeStatus
from health.registry import RegistryError

PREFIX = "vpnexit_control_"
table = Table("status")


class Metrics:
    """What one API instance counts. Labels are operations and statuses: their number does not grow with the traffic."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            PREFIX + "requests", "Requests answered", ("operation", "status"), registry=self.registry
        )
        self._seconds = Counter(
            PREFIX + "request_seconds", "Time spent on requests", ("operation",), registry=self.registry
        )
        self._changes = Counter(
            PREFIX + "changes", "Changes asked for", ("operation", "granted"), registry=self.registry
        )
        self._known: dict[tuple[str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}

    def answered(self, operation: str, status: int, seconds: float) -> None:
        key = (operation, status)
        known = self._known.get(key)
        if known is None:
            requests = self._requests.labels(operation, str(status))
            known = self._known[key] = (requests.inc, self._seconds.labels(operation).inc)
        known[0]()
        known[1](seconds)

    def changed(self, operation: str, granted: bool) -> None:
        self._changes.labels(operation, "yes" if granted else "no").inc()


@table.add("GET", "/metrics", "metrics", media="text/plain", open_on_loopback=True)
async def metrics(call: Call[Empty, NoQuery]) -> web.Response:
    """Control's numbers, for Prometheus

    On a loopback listener open to all; elsewhere, and behind another proxy, with scope read.
    """
    parts = call.parts
    try:
        picture: Picture | None = await parts.board.picture()
    except (RegistryError, FleetError):
        picture = None
    here = CollectorRegistry()
    here.register(_Fleet(picture, call.here.reconciler.leader, len(parts.streams), len(parts.gate.slowdown)))
    text = generate_latest(parts.metrics.registry) + generate_latest(here)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Fleet(Collector):
    """The fleet as last read; nothing of it where Redis does not answer."""

    def __init__(self, picture: Picture | None, leader: bool, streams: int, slowed: int) -> None:
        self._picture = picture
        self._single = {
            "leader": (leader, "Whether this instance leads"),
            "registry_up": (picture is not None, "Whether Redis answers and is complete"),
            "event_streams": (streams, "Streams of events open"),
            "slowed_addresses": (slowed, "Addresses with failed log-ins"),
        }

    def collect(self) -> Iterator[Metric]:
        for name, (value, text) in self._single.items():
            yield GaugeMetricFamily(PREFIX + name, text, float(value))
        if self._picture is not None:
            yield from self._fleet(self._picture)

    def _fleet(self, picture: Picture) -> Iterator[Metric]:
        nodes = GaugeMetricFamily(PREFIX + "nodes", "Nodes", labels=("country", "status"))
        counts: dict[tuple[str, str], int] = {}
        for node in picture.snapshot.nodes.values():
            key = (node.country, STATUS[node.status])
            counts[key] = counts.get(key, 0) + 1
        for labels, count in sorted(counts.items()):
            nodes.add_metric(labels, count)
        yield nodes
        desired = GaugeMetricFamily(PREFIX + "desired_nodes", "Nodes a pool shall have", labels=("country",))
        serving = GaugeMetricFamily(PREFIX + "serving_nodes", "Nodes of a pool that serve", labels=("country",))
        for country, pool in sorted(picture.snapshot.pools.items()):
            desired.add_metric((country,), pool.desired)
            serving.add_metric((country,), counts.get((country, STATUS[NodeStatus.SERVING]), 0))
        yield desired
        yield serving

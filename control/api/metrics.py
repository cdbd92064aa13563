"""/metrics: control in Prometheus' text format. It takes scope read, unless `control.metrics_open` says otherwise.

Who sends a request to loopback is not to be seen: a TCP proxy on this machine forwards anybody's.
"""

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control.api.board import Picture
from control.api.bodies import Empty, NoQuery
from control.api.numbers import numbers
from control.api.table import Call, Table
from control.api.views import STATUS
from control.fleet import FleetError
from health.model import NodeStatus
from health.registry import RegistryError

PREFIX = "vpnexit_control_"
table = Table("status")


class Metrics(Collector):
    """What one API instance counts. Labels are operations and statuses: their number does not grow with the traffic."""

    def __init__(self) -> None:
        self._answered: dict[tuple[str, int], list[float]] = {}
        self._changed: dict[tuple[str, str], int] = {}

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """A request was answered."""
        row = self._answered.get((operation, status))
        if row is None:
            row = self._answered[(operation, status)] = [0, 0.0]
        row[0] += 1
        row[1] += seconds

    def changed(self, operation: str, granted: bool) -> None:
        """A change was asked for."""
        key = (operation, "yes" if granted else "no")
        self._changed[key] = self._changed.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        labels = ("operation", "status")
        requests = CounterMetricFamily(PREFIX + "requests", "Requests answered", labels=labels)
        seconds = CounterMetricFamily(PREFIX + "request_seconds", "Time spent on requests", labels=labels)
        for (operation, status), (count, spent) in self._answered.items():
            requests.add_metric((operation, str(status)), count)
            seconds.add_metric((operation, str(status)), spent)
        changes = CounterMetricFamily(PREFIX + "changes", "Changes asked for", labels=("operation", "granted"))
        for key, number in self._changed.items():
            changes.add_metric(key, number)
        yield from (requests, seconds, changes)


@table.add("GET", "/metrics", "metrics", media="text/plain", may_be_open=True)
async def metrics(call: Call[Empty, NoQuery]) -> web.Response:
    """Control's numbers, for Prometheus

    Takes a token of scope read, except where `control.metrics_open` is set.
    """
    parts = call.parts
    try:
        picture: Picture | None = await parts.board.picture()
    except (RegistryError, FleetError):
        picture = None
    here = CollectorRegistry()
    here.register(_Fleet(picture, call.here.reconciler.leader, len(parts.streams), len(parts.gate.slowdown)))
    here.register(parts.metrics)
    here.register(await numbers(call.here, picture.snapshot if picture is not None else None))
    here.register(REGISTRY)  # what is counted elsewhere in this process, and the process itself
    text = generate_latest(here)
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

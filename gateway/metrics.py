"""What a worker counts, and the small HTTP listener that shows it: `/metrics` and `/ready`.

Labels are countries, nodes and reasons; nothing that grows with users or targets.
"""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


class Metrics:
    """One worker's numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.connections = Counter(
            "vpnexit_gateway_connections",
            "Client connections ended",
            ("country", "reason"),
            registry=self.registry,
        )
        self.open = Gauge("vpnexit_gateway_open_connections", "Client connections open", registry=self.registry)
        self.bytes = Counter("vpnexit_gateway_bytes", "Bytes relayed", ("direction",), registry=self.registry)
        self.dial_seconds = Histogram(
            "vpnexit_gateway_dial_seconds",
            "From choosing a node to a connected target",
            ("country",),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.snapshot_age = Gauge(
            "vpnexit_gateway_snapshot_age_seconds", "Since the fleet was last read", registry=self.registry
        )


def metrics_app(metrics: Metrics, ready: Callable[[], bool]) -> web.Application:
    """`/ready` answers 200 while new connections are welcome, else 503."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def readiness(_: web.Request) -> web.Response:
        return web.Response(text="ready\n") if ready() else web.Response(status=503, text="not ready\n")

    app = web.Application()
    app.router.add_get("/metrics", show)
    app.router.add_get("/ready", readiness)
    return app

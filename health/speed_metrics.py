"""The last speed test of each node, for Prometheus, as the collector of its machine measured it."""

from collections.abc import Collection

from prometheus_client import Counter, Gauge

from health.speed import Result
from health.speed_measure import Measured

_LABELS = ("country", "node")
DOWNLOAD = Gauge("vpnexit_health_speed_download_bits_per_second", "Payload of the last download", _LABELS)
UPLOAD = Gauge("vpnexit_health_speed_upload_bits_per_second", "Payload of the last upload", _LABELS)
LATENCY = Gauge("vpnexit_health_speed_latency_seconds", "Best TCP round trip to the endpoint", _LABELS)
TESTED = Gauge("vpnexit_health_speed_tested_timestamp_seconds", "When the last test that measured all ended", _LABELS)
TESTS = Counter("vpnexit_health_speed_tests_total", "Speed tests that ended", ("reason",))
BYTES = Counter("vpnexit_health_speed_bytes_total", "Payload that speed tests moved, both ways together")
_GAUGES = (DOWNLOAD, UPLOAD, LATENCY, TESTED)


class Told:
    """The nodes that have figures."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}

    def take(self, result: Result, measured: Measured, at: float) -> None:
        """A test ended at `at` (Unix seconds). A test that failed leaves the figures of the last good one."""
        TESTS.labels(result.reason.value).inc()
        BYTES.inc(measured.moved)
        if result.download_mbps is None or result.upload_mbps is None:
            return
        self._nodes[result.node] = result.country
        figures = (result.download_mbps * 1e6, result.upload_mbps * 1e6, (result.latency_ms or 0) / 1000, at)
        for gauge, value in zip(_GAUGES, figures, strict=True):
            gauge.labels(result.country, result.node).set(value)

    def keep(self, nodes: Collection[str]) -> None:
        """Forget the figures of all other nodes."""
        for node in self._nodes.keys() - set(nodes):
            country = self._nodes.pop(node)
            for gauge in _GAUGES:
                gauge.remove(country, node)

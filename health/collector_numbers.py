"""What a collector shows: the newest samples of its machine's nodes, and how its own work goes."""

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from health.model import Sample, Tunnel

PREFIX = "vpnexit_collector_"
KEPT_S = 5.0
"""So long as samples live in Redis."""
ROUND = Gauge(PREFIX + "round_timestamp_seconds", "When a round ended last that Redis answered (Unix)")
REDIS_ERRORS = Counter(PREFIX + "redis_errors", "Rounds that Redis did not answer")

_LABELS = ("country", "node")
# Field of a sample: name, text, factor. A field that is None, or that there is not, shows nothing.
_GAUGES = {
    "reachable": ("agent_reachable", "Whether the node's agent answers", 1.0),
    "kill_switch": ("kill_switch", "Whether the node's kill switch is in place", 1.0),
    "probe_ms": ("probe_seconds", "Round trip of the last probe through the tunnel", 0.001),
    "connect_ms": ("connect_seconds", "TCP connect time through the tunnel", 0.001),
    "jitter_ms": ("jitter_seconds", "Difference between one connect time and the next", 0.001),
    "loss": ("probe_loss_ratio", "Share of the last probes that stayed unanswered", 1.0),
    "dns_ms": ("dns_seconds", "Time of a look-up through the tunnel", 0.001),
    "dns_ok": ("dns_up", "Whether the tunnel's name servers answer", 1.0),
    "handshake_age_s": ("handshake_age_seconds", "Age of WireGuard's last handshake", 1.0),
    "generation": ("tunnel_generation", "How often the tunnel was made", 1.0),
    "cpu_percent": ("cpu_cores", "Cores that the node's container uses", 0.01),
    "memory_bytes": ("memory_bytes", "Memory that the node's container uses", 1.0),
}
_COUNTERS = {
    "rx_bytes": ("received_bytes", "Bytes that came through the tunnel"),
    "tx_bytes": ("sent_bytes", "Bytes that went through the tunnel"),
    "refused": ("refused_samples", "What the node's agent said that cannot be true"),
}


class Numbers(Collector):
    """The newest sample of each node, for as long as it is news. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: dict[str, tuple[float, Sample]] = {}

    def take(self, samples: Iterable[Sample]) -> None:
        """What was measured just now."""
        now = self._clock()
        self._samples.update((sample.node, (now, sample)) for sample in samples)
        self._samples = {node: (at, one) for node, (at, one) in self._samples.items() if now - at <= KEPT_S}

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry would collect everything to see which names there are."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        now = self._clock()
        fresh = [sample for at, sample in self._samples.values() if now - at <= KEPT_S]
        told = [((sample.node[:2], sample.node), sample.model_dump()) for sample in fresh]
        up = GaugeMetricFamily(PREFIX + "tunnel_up", "Whether the node's tunnel is up", labels=_LABELS)
        for labels, values in told:
            up.add_metric(labels, values["tunnel"] is Tunnel.UP)
        yield up
        for field, (name, text, factor) in _GAUGES.items():
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=_LABELS)
            for labels, values in told:
                if values.get(field) is not None:
                    gauge.add_metric(labels, values[field] * factor)
            yield gauge
        for field, (name, text) in _COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, text, labels=_LABELS)
            for labels, values in told:
                counter.add_metric(labels, values[field])
            yield counter


NUMBERS = Numbers()
REGISTRY.register(NUMBERS)

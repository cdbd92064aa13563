"""Figures of the last good test of each node there is."""

from prometheus_client import REGISTRY

from health.reasons import Reason
from health.speed import Result
from health.speed_measure import Measured
from health.speed_metrics import Told

JP, US = "jp000001", "us000001"
FINE = {"download_mbps": 80.0, "upload_mbps": 40.0, "latency_ms": 12.0}


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"vpnexit_health_speed_{name}", labels)


def result(node: str = JP, **fields: object) -> Result:
    return Result.model_validate({"id": "0" * 16, "node": node, "country": node[:2], **(FINE | fields)})


def test_the_last_good_figures_stay() -> None:
    told, of = Told(), {"country": "jp", "node": JP}
    moved, ok = metric("bytes_total") or 0, metric("tests_total", reason="ok") or 0
    refused = metric("tests_total", reason="refused") or 0
    told.take(result(), Measured(moved=50), 1000.0)
    figures = ("download_bits_per_second", "upload_bits_per_second", "latency_seconds", "tested_timestamp_seconds")
    assert [metric(name, **of) for name in figures] == [80e6, 40e6, 0.012, 1000]
    assert (metric("bytes_total"), metric("tests_total", reason="ok")) == (moved + 50, ok + 1)
    told.take(result(download_mbps=1.0, upload_mbps=None, reason=Reason.REFUSED), Measured(moved=7), 2000.0)
    assert [metric(name, **of) for name in figures] == [80e6, 40e6, 0.012, 1000]
    assert (metric("bytes_total"), metric("tests_total", reason="refused")) == (moved + 57, refused + 1)
    told.keep([JP])
    assert metric("latency_seconds", **of) == 0.012
    told.keep([])
    told.keep([])
    assert [metric(name, **of) for name in figures] == [None] * 4


def test_each_node_has_its_own() -> None:
    told = Told()
    told.take(result(JP), Measured(), 1.0)
    told.take(result(US, download_mbps=5.0), Measured(), 2.0)
    told.keep([US])
    assert metric("download_bits_per_second", country="us", node=US) == 5e6
    assert metric("download_bits_per_second", country="jp", node=JP) is None
    told.keep([])

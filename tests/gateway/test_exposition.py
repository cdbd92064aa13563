"""What Prometheus reads, by its own parser."""

from prometheus_client.parser import text_string_to_metric_families

from gateway.exposition import exposition
from gateway.metrics import BUCKETS, Metrics
from health.reasons import Reason

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: bytes) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name.removeprefix("vpnexit_gateway_"), frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_everything_counted_is_shown_under_its_name() -> None:
    counted = Metrics()
    counted.opened()
    counted.dialled("jp", "jp000001", 0.003)
    counted.dialled("jp", "jp000002", 20.0)
    counted.first_byte("jp", "jp000001", 0.2)
    counted.dial_failed("jp", "jp000001", Reason.NODE_DIAL)
    counted.ended("jp", "jp000001", Reason.OK, 100, 2000)
    counted.ended("jp", "jp000001", Reason.CLIENT_RESET, 1, 2)
    counted.refused(Reason.AUTH_FAILED)
    counted.paused("limit")
    counted.datagram_dropped("up", Reason.TARGET_FORBIDDEN)
    counted.log_lines_dropped = 7
    found = samples(
        exposition(
            counted.counters(),
            {"open_connections": 1, "snapshot_age_seconds": 0.5, "usable_nodes": 4},
            2,
            {"jp000001": 3},
            {"jp": True, "us": False},
        )
    )
    node = {"country": "jp", "node": "jp000001"}
    assert of(found, "connections_total", **node, reason="ok") == 1
    assert of(found, "connections_total", **node, reason="client_reset") == 1
    assert of(found, "bytes_total", **node, direction="up") == 101
    assert of(found, "bytes_total", **node, direction="down") == 2002
    assert of(found, "dials_total", **node) == 1
    assert of(found, "dial_failures_total", **node, reason="node_dial") == 1
    assert of(found, "refusals_total", reason="auth_failed") == 1
    assert of(found, "accept_pauses_total", reason="limit") == 1
    assert of(found, "datagrams_dropped_total", direction="up", reason="target_forbidden") == 1
    assert of(found, "accepted_connections_total") == 1
    assert of(found, "log_lines_dropped_total") == 7
    assert of(found, "worker_restarts_total") == 2
    assert of(found, "open_connections") == 1
    assert of(found, "node_connections", node="jp000001") == 3
    assert (of(found, "pool_panic", country="jp"), of(found, "pool_panic", country="us")) == (1, 0)
    assert of(found, "snapshot_age_seconds") == 0.5
    assert of(found, "usable_nodes") == 4
    assert of(found, "dial_seconds_bucket", country="jp", le=str(BUCKETS[0])) == 0
    assert of(found, "dial_seconds_bucket", country="jp", le=str(BUCKETS[1])) == 1
    assert of(found, "dial_seconds_bucket", country="jp", le="10.0") == 1
    assert of(found, "dial_seconds_bucket", country="jp", le="+Inf") == 2
    assert of(found, "dial_seconds_count", country="jp") == 2
    assert of(found, "dial_seconds_sum", country="jp") == 20.003
    assert of(found, "first_byte_seconds_count", country="jp") == 1


def test_before_anything_happened_the_totals_are_there() -> None:
    found = samples(exposition({}, {}, restarts=0))
    assert of(found, "accepted_connections_total") == 0
    assert of(found, "log_lines_dropped_total") == 0


def test_what_other_code_counts_is_left_out() -> None:
    counted = Metrics()
    counted.dialled("jp", "jp000001", 0.003)
    counters = counted.counters()
    counters["dial_seconds"][("us",)] = [1, 2, 3]
    counters["not_known_here"] = {(): [1]}
    found = samples(exposition(counters, {"not_known_here": 1}, restarts=0))
    assert of(found, "dial_seconds_count", country="jp") == 1
    assert ("dial_seconds_count", frozenset({("country", "us")})) not in found


def test_what_has_not_happened_is_shown_as_none() -> None:
    text = exposition(Metrics().counters(), {}, 0).decode()
    for line in (
        'vpnexit_gateway_refusals_total{reason="auth_failed"} 0.0',
        'vpnexit_gateway_refusals_total{reason="no_node"} 0.0',
        'vpnexit_gateway_accept_pauses_total{reason="descriptors"} 0.0',
        'vpnexit_gateway_accept_pauses_total{reason="limit"} 0.0',
    ):
        assert line in text
    assert 'refusals_total{reason="ok"}' not in text

"""What a worker counts, and what several have counted together."""

import json
import math

import pytest

from gateway import metrics
from gateway.metrics import BUCKETS, NODE_KEPT_S, Metrics
from health.reasons import Reason


def busy() -> Metrics:
    counted = Metrics()
    counted.opened()
    counted.dialled("jp", "jp000001", 0.003)
    counted.first_byte("jp", "jp000001", 0.2)
    counted.dial_failed("jp", "jp000002", Reason.NODE_DIAL)
    counted.ended("jp", "jp000001", Reason.OK, 100, 2000)
    counted.refused(Reason.AUTH_FAILED)
    counted.paused("limit")
    counted.datagram_dropped("up", Reason.TARGET_FORBIDDEN)
    counted.log_lines_dropped = 3
    return counted


def test_every_call_counts_in_its_place() -> None:
    counted = busy()
    assert counted.open == 1
    counted.closed()
    assert counted.open == 0
    counters = counted.counters()
    assert counters[metrics.CONNECTIONS] == {("jp", "jp000001", "ok"): [1, 100, 2000]}
    assert counters[metrics.DIALS] == {("jp", "jp000001"): [1]}
    assert counters[metrics.DIAL_FAILURES] == {("jp", "jp000002", "node_dial"): [1]}
    assert counters[metrics.REFUSALS] == {("auth_failed",): [1]}
    assert counters[metrics.PAUSES] == {("limit",): [1]}
    assert counters[metrics.DATAGRAMS_DROPPED] == {("up", "target_forbidden"): [1]}
    assert counters[metrics.TOTALS] == {(): [1, 3]}


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (BUCKETS[0], 0), (0.0026, 1), (10.0, len(BUCKETS) - 1)])
def test_a_time_falls_into_the_bucket_whose_bound_it_does_not_exceed(seconds: float, bucket: int) -> None:
    counted = Metrics()
    counted.dialled("jp", "jp000001", seconds)
    counted.first_byte("jp", "jp000001", seconds)
    for name in (metrics.DIAL_SECONDS, metrics.FIRST_BYTE_SECONDS):
        *counts, total = counted.counters()[name][("jp",)]
        assert [i for i, count in enumerate(counts) if count] == [bucket]
        assert total == seconds


def test_a_time_above_all_bounds_is_counted() -> None:
    counted = Metrics()
    counted.dialled("jp", "jp000001", 11.0)
    assert counted.counters()[metrics.DIAL_SECONDS][("jp",)][len(BUCKETS)] == 1


def test_two_workers_add_up_and_neither_changes() -> None:
    one, two = busy(), busy()
    two.ended("us", "us000001", Reason.REFUSED, 1, 0)
    before = json.dumps(metrics.to_json(one.counters()))
    total: metrics.Counters = {}
    metrics.merge(total, one.counters())
    metrics.merge(total, two.counters())
    assert total[metrics.CONNECTIONS] == {
        ("jp", "jp000001", "ok"): [2, 200, 4000],
        ("us", "us000001", "refused"): [1, 1, 0],
    }
    assert total[metrics.DIAL_SECONDS][("jp",)][-1] == 0.006
    assert json.dumps(metrics.to_json(one.counters())) == before


def test_through_json_and_back() -> None:
    counters = busy().counters()
    assert metrics.from_json(json.loads(json.dumps(metrics.to_json(counters)))) == counters


def test_a_node_that_left_is_shown_for_ten_minutes_and_dropped_after_that() -> None:
    counted = busy()
    counted.ended("", "", Reason.BAD_REQUEST, 0, 0)
    assert sorted(counted.known_nodes({"jp000001", "jp000002"}, 0.0)) == ["jp000001", "jp000002"]
    assert sorted(counted.known_nodes({"jp000002"}, NODE_KEPT_S)) == ["jp000001", "jp000002"]
    assert counted.known_nodes({"jp000002"}, NODE_KEPT_S + 1) == ["jp000002"]
    assert ("jp", "jp000001", "ok") in counted.counters()[metrics.CONNECTIONS]
    counted.known_nodes({"jp000002"}, NODE_KEPT_S + 61)
    counters = counted.counters()
    assert set(counters[metrics.CONNECTIONS]) == {("", "", "bad_request")}
    assert counters[metrics.DIALS] == {}
    assert set(counters[metrics.DIAL_FAILURES]) == {("jp", "jp000002", "node_dial")}


def test_nodes_that_come_and_go_for_ever_hold_no_memory() -> None:
    counted = Metrics()
    for now in range(5000):
        node = f"jp{now:06x}"
        counted.dialled("jp", node, 0.001)
        counted.ended("jp", node, Reason.OK, 1, 1)
        counted.known_nodes({node}, float(now))
    assert len(counted.counters()[metrics.CONNECTIONS]) < NODE_KEPT_S + 100
    assert math.isclose(sum(counted.counters()[metrics.DIAL_SECONDS][("jp",)][:-1]), 5000)


def test_first_bytes_are_kept_by_node_and_shown_by_country() -> None:
    counted = Metrics()
    for node, seconds in (("jp000001", 0.25), ("jp000001", 0.5), ("jp000002", 1.0), ("us000001", 2.0)):
        counted.first_byte(node[:2], node, seconds)
    assert [counted.answers(node) for node in ("jp000001", "jp000002", "jp000003")] == [(2, 0.75), (1, 1.0), (0, 0.0)]
    before = counted.counters()[metrics.FIRST_BYTE_SECONDS]
    sums = {country: (sum(row[:-1]), row[-1]) for (country,), row in before.items()}
    assert sums == {"jp": (3, 1.75), "us": (1, 2)}
    counted.known_nodes({"jp000001", "jp000002", "us000001"}, 0.0)
    counted.known_nodes(set(), NODE_KEPT_S + 61)
    assert counted.answers("jp000001") == (0, 0.0)
    assert counted.counters()[metrics.FIRST_BYTE_SECONDS] == before, "what a country counted never falls"
    counted.first_byte("jp", "jp000009", 1.0)
    assert counted.counters()[metrics.FIRST_BYTE_SECONDS]["jp",][-1] == 2.75


def test_what_targets_cut_off_is_kept_by_node_for_as_long_as_the_others() -> None:
    counted = Metrics()
    for node in ("jp000001", "jp000001", "jp000002"):
        counted.cut_off(node)
    assert [counted.cut(node) for node in ("jp000001", "jp000002", "jp000003")] == [2, 1, 0]
    counted.known_nodes({"jp000001", "jp000002"}, 0.0)
    counted.known_nodes({"jp000002"}, NODE_KEPT_S + 61)
    assert [counted.cut(node) for node in ("jp000001", "jp000002")] == [0, 1]


def test_forgetting_keeps_what_has_no_node() -> None:
    counted = busy()
    counted.ended("jp", "", Reason.NO_NODE, 0, 0)
    counters = counted.counters()
    metrics.forget(counters, {"jp000002"})
    assert set(counters[metrics.CONNECTIONS]) == {("jp", "", "no_node")}
    assert set(counters[metrics.DIAL_FAILURES]) == {("jp", "jp000002", "node_dial")}
    assert counters[metrics.REFUSALS] == {("auth_failed",): [1]}

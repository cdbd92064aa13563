"""What Prometheus sees of the scorer."""

from collections.abc import Callable

from prometheus_client import REGISTRY

from health.book import Book
from health.model import Node
from health.registry_reports import Told as Reading
from health.scorer_metrics import Told

MakeNode = Callable[..., Node]


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_the_leader_tells_and_a_standby_is_silent(make_node: MakeNode) -> None:
    nodes = {"zz000001": make_node("zz000001", kind="direct"), "us000001": make_node("us000001", kind="upstream")}
    book, told = Book(), Told()
    told.leads(True)
    for node in nodes:
        book.begin(node, None, 0.0)
    book.look(nodes, Reading(unreadable_reports=3), 1.0, 1_800_000_000.0)
    ignored = value("vpnexit_scorer_ignored_total", what="report", reason="unreadable") or 0
    told.looked(book, nodes, 1_800_000_000.0)
    told.looked(book, nodes, 1_800_000_001.0)
    assert value("vpnexit_scorer_leading") == 1
    assert value("vpnexit_scorer_last_look_timestamp_seconds") == 1_800_000_001
    assert value("vpnexit_scorer_pool_panic", country="us") == 0
    assert value("vpnexit_scorer_node_score", country="zz", node="zz000001") == 100
    assert value("vpnexit_scorer_node_healthy", country="us", node="us000001") == 1
    assert value("vpnexit_scorer_node_latency_seconds", country="zz", node="zz000001") == 0
    assert value("vpnexit_scorer_node_latency_seconds", country="us", node="us000001") is None
    assert value("vpnexit_scorer_ignored_total", what="report", reason="unreadable") == ignored + 3

    del nodes["us000001"]
    book.look(nodes, Reading(), 2.0, 1_800_000_002.0)
    told.looked(book, nodes, 1_800_000_002.0)
    assert value("vpnexit_scorer_node_score", country="us", node="us000001") is None
    assert value("vpnexit_scorer_pool_panic", country="us") is None

    told.leads(False)
    assert value("vpnexit_scorer_leading") == 0
    assert value("vpnexit_scorer_node_score", country="zz", node="zz000001") is None
    assert value("vpnexit_scorer_pool_panic", country="zz") is None


def test_a_country_in_panic(make_node: MakeNode) -> None:
    node = make_node("us000001", kind="upstream")
    book, told = Book(), Told()
    book.begin(node.id, None, 0.0)
    book.look({node.id: node}, Reading(), 1.0, 1_800_000_000.0)
    stored = book.scores[0].model_copy(update={"healthy": False, "terms": {"health": 0.0}})
    book = Book()
    book.begin(node.id, stored, 0.0)
    book.look({node.id: node}, Reading(), 1.0, 1_800_000_001.0)
    told.looked(book, {node.id: node}, 1_800_000_001.0)
    assert value("vpnexit_scorer_pool_panic", country="us") == 1
    assert value("vpnexit_scorer_node_healthy", country="us", node="us000001") == 0
    told.leads(False)

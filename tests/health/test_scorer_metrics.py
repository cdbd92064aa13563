"""What Prometheus sees of the scorer."""

from collections.abc import Callable

from prometheus_client import REGISTRY

from health.book import Book
from health.model import Node, Score
from health.registry.reports import Told as Reading
from health.scorer_metrics import Told

MakeNode = Callable[..., Node]


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_the_leader_tells_and_a_standby_is_silent(make_node: MakeNode) -> None:
    nodes = {"zz000001": make_node("zz000001", kind="direct"), "us000001": make_node("us000001", kind="upstream")}
    book, told = Book(), Told()
    told.begin()
    for node in nodes:
        book.begin(node, None, 0.0)
    book.look(nodes, Reading(unreadable_reports=3), 1.0, 1_800_000_000.0)
    ignored = value("vpnexit_scorer_ignored_total", what="report", reason="unreadable") or 0
    told.looked(book, nodes)
    told.looked(book, nodes)
    assert value("vpnexit_scorer_pool_panic", country="us") == 0
    assert value("vpnexit_scorer_node_ejected", country="us", node="us000001") == 0
    assert value("vpnexit_scorer_ignored_total", what="report", reason="unreadable") == ignored + 3

    del nodes["us000001"]
    book.look(nodes, Reading(), 2.0, 1_800_000_002.0)
    told.looked(book, nodes)
    assert value("vpnexit_scorer_node_ejected", country="us", node="us000001") is None
    assert value("vpnexit_scorer_pool_panic", country="us") is None
    assert value("vpnexit_scorer_pool_panic", country="zz") == 0

    told.begin()
    assert value("vpnexit_scorer_node_ejected", country="zz", node="zz000001") is None
    assert value("vpnexit_scorer_pool_panic", country="zz") is None


def looked_at(make_node: MakeNode, **stored: object) -> None:
    """A country of one upstream node, whose score was as `stored` says."""
    node = make_node("us000001", kind="upstream")
    book = Book()
    score = Score(node=node.id, at=1.0, value=50.0, **{"healthy": True, **stored})  # type: ignore[arg-type]
    book.begin(node.id, score, 0.0)
    book.look({node.id: node}, Reading(), 1.0, 1_800_000_001.0)
    told = Told()
    told.begin()
    told.looked(book, {node.id: node})


def test_a_country_in_panic(make_node: MakeNode) -> None:
    looked_at(make_node, healthy=False)
    assert value("vpnexit_scorer_pool_panic", country="us") == 1
    looked_at(make_node)
    assert value("vpnexit_scorer_pool_panic", country="us") == 0


def test_an_only_node_is_not_left_out_and_that_is_panic(make_node: MakeNode) -> None:
    looked_at(make_node, ejected="failures")
    assert value("vpnexit_scorer_pool_panic", country="us") == 1
    assert value("vpnexit_scorer_node_ejected", country="us", node="us000001") == 0

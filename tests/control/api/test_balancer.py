"""/api/load-balancer: the best node, and by what rule pools choose."""

import pytest

from control.api.balancer import best, strategy_view
from health.model import Node, NodeKind, NodeStatus, Pool, Score, Strategy
from health.registry import Registry, Snapshot
from tests.control.api.conftest import Client


def node(number: int, status: NodeStatus = NodeStatus.SERVING, country: str = "jp") -> Node:
    name = f"{country}{number}.vpn.example"
    return Node(
        id=f"{country}{number:06x}", country=country, kind=NodeKind.VPN, machine="m", status=status, vpn_server=name
    )


def score(number: int, value: float, healthy: bool = True) -> Score:
    return Score(node=f"jp{number:06x}", at=1.0, value=value, healthy=healthy)


@pytest.mark.parametrize(
    ("nodes", "scores", "expected"),
    [
        ([], [], None),
        ([node(1, NodeStatus.STARTING), node(2, country="us")], [], None),
        ([node(1), node(2)], [score(1, 50), score(2, 60)], 2),
        ([node(1), node(2)], [score(1, 50), score(2, 99, healthy=False)], 1),
        ([node(1), node(2)], [score(1, 1)], 1),
        ([node(1), node(2, NodeStatus.DRAINING)], [score(1, 1), score(2, 99)], 1),
    ],
)
def test_the_best_is_serving_healthy_and_highest(nodes: list[Node], scores: list[Score], expected: int | None) -> None:
    found = best(Snapshot("e", {n.id: n for n in nodes}, {s.node: s for s in scores}), "jp")
    assert (found.id if found else None) == (None if expected is None else f"jp{expected:06x}")


async def test_best_node(ask: Client, registry: Registry) -> None:
    assert (await ask("GET", "/api/load-balancer/best-node/jp", 404))["reason"] == "no_node"
    for number, value in ((1, 40.0), (2, 90.0)):
        await registry.put_node(node(number))
        await registry.put_scores([score(number, value)])
    found = await ask("GET", "/api/load-balancer/best-node/JP")
    assert (found["country"], found["node_id"], found["server"], found["score"], found["strategy"]) == (
        *("jp", "jp000002", "jp2.vpn.example", 90.0),
        "health_score",
    )
    assert found["node"]["id"] == "jp000002"
    await ask("GET", "/api/load-balancer/best-node/xx", 400)


async def test_the_strategy_of_one_country_and_of_all(ask: Client) -> None:
    start = await ask("GET", "/api/load-balancer/strategy")
    assert (start["strategy"], start["pools"]) == ("health_score", {})
    assert set(start["available"]) == {strategy.value for strategy in Strategy}
    await ask("PUT", "/api/pools/jp", json={"max": 2})
    one = await ask("POST", "/api/load-balancer/strategy", json={"strategy": "random", "country": "uk"})
    assert (one["strategy"], one["pools"]) == (None, {"gb": "random", "jp": "health_score"})
    everyone = await ask("POST", "/api/load-balancer/strategy", json={"strategy": "round_robin"})
    assert (everyone["strategy"], everyone["pools"]) == ("round_robin", {"gb": "round_robin", "jp": "round_robin"})
    version = (await ask("GET", "/api/pools/jp"))["version"]
    await ask("POST", "/api/load-balancer/strategy", json={"strategy": "round_robin"})
    assert (await ask("GET", "/api/pools/jp"))["version"] == version, "nothing to change"
    await ask("POST", "/api/load-balancer/strategy", 400, json={"strategy": "best"})


def test_pools_that_agree_have_one_strategy() -> None:
    pools = {country: Pool(country=country, strategy=Strategy.RANDOM) for country in ("jp", "us")}
    assert strategy_view(pools).strategy is Strategy.RANDOM

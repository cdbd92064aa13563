"""/api/load-balancer: which node a country's next connection would get by score, and by what rule pools choose.

The choice itself is the gateways'; this tells what they see. Every pool has a strategy of its own.
"""

from control.api.bodies import Country, Empty, NoQuery, StrategyBody
from control.api.errors import ApiError
from control.api.table import Call, Table
from control.api.views import NodeView, View, node_view
from health.model import Node, NodeStatus, Pool, Scope, Strategy
from health.registry import Snapshot

table = Table("load balancer")


class BestView(View):
    """The serving node of a country with the best score."""

    country: Country
    node_id: str
    server: str
    score: float | None
    strategy: Strategy
    node: NodeView


class StrategyView(View):
    """`strategy` is what all pools choose by, null where they differ; `pools` says it for each."""

    strategy: Strategy | None
    pools: dict[str, Strategy]
    available: list[Strategy]


@table.add("GET", "/api/load-balancer/best-node/{country}", "balancer.best", answer=BestView, refusals=(404,))
async def best_node(call: Call[Empty, NoQuery]) -> BestView:
    """The node with the best score in a country

    404 where none is serving there.
    """
    country = call.path["country"]
    snapshot = await call.here.fleet.snapshot()
    node = best(snapshot, country)
    if node is None:
        raise ApiError(404, "no_node", f"no node is serving in {country} now")
    samples = await call.here.registry.samples([node.id])
    score = snapshot.scores.get(node.id)
    return BestView(
        country=country,
        node_id=node.id,
        server=node.vpn_server,
        score=score.value if score else None,
        strategy=call.here.fleet.pool_of(snapshot, country).strategy,
        node=node_view(node, samples.get(node.id), score),
    )


@table.add("GET", "/api/load-balancer/strategy", "balancer.strategy", answer=StrategyView)
async def show_strategy(call: Call[Empty, NoQuery]) -> StrategyView:
    """By what rule nodes are chosen"""
    return strategy_view((await call.here.fleet.snapshot()).pools)


@table.add(
    "POST",
    "/api/load-balancer/strategy",
    "balancer.set_strategy",
    scope=Scope.OPERATE,
    answer=StrategyView,
    refusals=(409, 422),
    body=StrategyBody,
)
async def set_strategy(call: Call[StrategyBody, NoQuery]) -> StrategyView:
    """Set by what rule nodes are chosen

    Of one country, or else of every pool there is, one after the other.
    """
    fleet, wanted = call.here.fleet, call.body
    call.subject = wanted.country or "all pools"
    snapshot = await fleet.snapshot()
    for country in [wanted.country] if wanted.country else sorted(snapshot.pools):
        if fleet.pool_of(snapshot, country).strategy is not wanted.strategy:
            await fleet.change_pool(country, {"strategy": wanted.strategy})
    return strategy_view((await fleet.snapshot()).pools)


def best(snapshot: Snapshot, country: str) -> Node | None:
    """The serving node of `country` with the highest score, healthy ones first; None where none serves."""
    serving = [n for n in snapshot.nodes.values() if n.country == country and n.status is NodeStatus.SERVING]

    def rank(node: Node) -> tuple[bool, float, str]:
        score = snapshot.scores.get(node.id)
        return (score is not None and score.healthy, score.value if score else 0.0, node.id)

    return max(serving, key=rank, default=None)


def strategy_view(pools: dict[str, Pool]) -> StrategyView:
    """The strategies of `pools`; where there are none, what a new one would have."""
    each = {country: pools[country].strategy for country in sorted(pools)}
    kinds = set(each.values()) or {Strategy.HEALTH_SCORE}
    return StrategyView(strategy=kinds.pop() if len(kinds) == 1 else None, pools=each, available=list(Strategy))

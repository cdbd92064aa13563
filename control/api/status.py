"""/api/stats and /api/health: how the whole is doing."""

from typing import Literal

from control.api.bodies import Empty, NoQuery
from control.api.table import Answer, Call, Table
from control.api.views import View
from health.model import NodeStatus
from health.registry import RegistryError

table = Table("status")


class StatsView(View):
    """Numbers of the whole fleet. Traffic is in bytes, both ways, since the gateways were started; gateways that did
    not answer are not counted, and named."""

    total_nodes: int
    active_nodes: int
    total_traffic: int
    connected_clients: int
    total_pools: int
    countries: int
    gateways_silent: list[str]


class HealthView(View):
    """`degraded` while a part is missing. `ready`: what the API is asked can be answered. `standby`: the fleet is
    another machine's, whose control alone starts nodes; this one's troubles say which."""

    status: Literal["ok", "degraded"]
    ready: bool
    redis: Literal["ok", "down", "filling"]
    docker: Literal["ok", "down", "none"]
    leader: bool
    standby: bool


@table.add("GET", "/api/stats", "stats", answer=StatsView)
async def stats(call: Call[Empty, NoQuery]) -> StatsView:
    """Nodes, traffic and clients of the whole fleet

    `active_nodes` serve now; `total_nodes` are all that have not ended.
    """
    snapshot = (await call.parts.board.picture()).snapshot
    counts = await call.parts.gateways.counts()
    alive = [node for node in snapshot.nodes.values() if not node.status.ended]
    serving = [node for node in alive if node.status is NodeStatus.SERVING]
    return StatsView(
        total_nodes=len(alive),
        active_nodes=len(serving),
        total_traffic=counts.traffic,
        connected_clients=counts.clients,
        total_pools=len(snapshot.pools),
        countries=len({node.country for node in serving}),
        gateways_silent=list(counts.silent),
    )


@table.add("GET", "/api/health", "health", answer=HealthView, scope=None)
async def health(call: Call[Empty, NoQuery]) -> HealthView:
    """Whether the API and what it stands on are there

    Open to all, and 200 while the API serves at all.
    """
    return await _health(call)


@table.add("GET", "/api/health/ready", "ready", answer=HealthView, scope=None, statuses=(200, 503))
async def ready(call: Call[Empty, NoQuery]) -> Answer:
    """Whether this instance is to be sent requests: 200 or 503

    Open to all.
    """
    found = await _health(call)
    return Answer(found, 200 if found.ready else 503)


async def _health(call: Call[Empty, NoQuery]) -> HealthView:
    here = call.here
    redis: Literal["ok", "down", "filling"]
    try:
        redis = "ok" if await here.registry.epoch() else "filling"
    except RegistryError:
        redis = "down"
    down = bool(here.reconciler.engine_trouble)
    docker: Literal["ok", "down", "none"] = "none" if here.engine is None else "down" if down else "ok"
    standby = bool(here.reconciler.standby)
    return HealthView(
        status="ok" if redis == "ok" and docker != "down" and not standby else "degraded",
        ready=redis == "ok" and not standby,
        redis=redis,
        docker=docker,
        leader=here.reconciler.leader,
        standby=standby,
    )

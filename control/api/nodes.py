"""/api/nodes: list, show, start, stop, restart, logs, score."""

from aiohttp import web

from control.api.board import Body, joined
from control.api.bodies import Empty, LogsQuery, NodesQuery, NoQuery, StartBody
from control.api.errors import ApiError
from control.api.reading import nothing
from control.api.table import Answer, Call, Table
from control.api.views import (
    STATUS,
    LogsView,
    NodeView,
    ScoreView,
    StartedView,
    StoppedView,
    node_view,
    score_view,
)
from control.nodespec import container_name
from health.model import Node, Scope
from health.registry import Snapshot

table = Table("nodes")


@table.add("GET", "/api/nodes", "node.list", answer=list[NodeView], query=NodesQuery, statuses=(200, 304))
async def list_nodes(call: Call[Empty, NodesQuery]) -> web.StreamResponse:
    """All nodes, or some of them

    By country, then by age. X-Total-Count says how many there are without limit and offset. With If-None-Match a list
    that did not change is answered by 304.
    """
    board = call.parts.board
    picture = board.fresh() or await board.picture()
    body, query = picture.everything, call.query
    if query is not nothing(NodesQuery):
        found = picture.some(query.country, query.status)
        end = None if query.limit is None else query.offset + query.limit
        body = Body.of(joined(found[query.offset : end]), len(found))
    return body.asked_by(call.request).answer(call.request)


@table.add("GET", "/api/nodes/{id}", "node.show", answer=NodeView, refusals=(404,))
async def show_node(call: Call[Empty, NoQuery]) -> NodeView:
    """One node"""
    snapshot = await call.here.fleet.snapshot()
    node = _node(call.path["id"], snapshot)
    samples = await call.here.registry.samples([node.id])
    return node_view(node, samples.get(node.id), snapshot.scores.get(node.id))


@table.add(
    "POST",
    "/api/nodes/{country}/start",
    "node.start",
    scope=Scope.OPERATE,
    answer=StartedView,
    statuses=(202,),
    refusals=(409,),
    body=StartBody,
    body_as_query=True,
)
async def start_node(call: Call[StartBody, NoQuery]) -> StartedView:
    """Start one more node of a country

    Raises the pool's `desired` by one. What is wished for may stand in the query or in the body.
    """
    wish = call.body
    node = await call.here.fleet.start(call.path["country"], wish.server, wish.city, wish.protocol)
    return _started(node)


@table.add(
    "DELETE",
    "/api/nodes/{id}/stop",
    "node.stop",
    scope=Scope.OPERATE,
    answer=StoppedView,
    statuses=(202, 200),
    refusals=(404, 409),
)
async def stop_node(call: Call[Empty, NoQuery]) -> Answer:
    """Drain a node, then stop it

    Lowers the pool's `desired` by one. 200 where it has ended already.
    """
    node = await call.here.fleet.stop(call.path["id"])
    body = StoppedView(status=STATUS[node.status], node_id=node.id, country=node.country)
    return Answer(body, status=200 if node.status.ended else 202)


@table.add(
    "POST",
    "/api/nodes/{id}/restart",
    "node.restart",
    scope=Scope.OPERATE,
    answer=StartedView,
    statuses=(202,),
    refusals=(404, 409),
)
async def restart_node(call: Call[Empty, NoQuery]) -> StartedView:
    """Replace a node by a fresh one

    Answers the successor, which serves before the old node is drained. Where there is no room for one yet, or the
    account has no session for both, the old node is answered, and its `reason` says so.
    """
    return _started(await call.here.fleet.restart(call.path["id"]))


@table.add("GET", "/api/nodes/{id}/logs", "node.logs", answer=LogsView, query=LogsQuery, refusals=(404,))
async def node_logs(call: Call[Empty, LogsQuery]) -> LogsView:
    """The last lines of a node's log"""
    here, lines = call.here, call.query.lines
    node = _node(call.path["id"], await here.fleet.snapshot())
    text = here.files.log(node.id)
    if not text and here.engine is not None:
        name = container_name(node.id)
        found = [c for c in await here.engine.containers() if c.name == name and c.node == node.id]
        text = await here.engine.logs(found[0].id, lines) if found else ""
    kept = text.splitlines()[-lines:]
    return LogsView(node_id=node.id, lines=len(kept), logs="".join(f"{line}\n" for line in kept))


@table.add("GET", "/api/nodes/{id}/score", "node.score", answer=ScoreView, refusals=(404,))
async def node_score(call: Call[Empty, NoQuery]) -> ScoreView:
    """Every term of a node's score"""
    snapshot = await call.here.fleet.snapshot()
    node = _node(call.path["id"], snapshot)
    samples = await call.here.registry.samples([node.id])
    return score_view(node, samples.get(node.id), snapshot.scores.get(node.id))


def _started(node: Node) -> StartedView:
    return StartedView(status=STATUS[node.status], node_id=node.id, country=node.country, server=node.vpn_server)


def _node(node_id: str, snapshot: Snapshot) -> Node:
    node = snapshot.nodes.get(node_id)
    if node is None:
        raise ApiError(404, "not_found", f"there is no node {node_id}")
    return node

"""/api/nodes: list, start, stop, logs."""

from aiohttp import web

from control.api.bodies import StartBody, country_of, read_body
from control.api.context import context
from control.api.errors import ApiError, bad_request
from control.api.views import STATUS, node_view
from control.nodespec import container_name
from health.model import NODE_ID, Node
from health.registry import Snapshot

MAX_LINES = 1000
DEFAULT_LINES = 100

routes = web.RouteTableDef()


@routes.get("/api/nodes")
async def list_nodes(request: web.Request) -> web.Response:
    here = context(request)
    snapshot = await here.fleet.snapshot()
    samples = await here.registry.samples(snapshot.nodes)
    nodes = sorted(snapshot.nodes.values(), key=lambda node: (node.country, node.requested_at, node.id))
    return web.json_response([node_view(node, samples.get(node.id), snapshot.scores.get(node.id)) for node in nodes])


@routes.get("/api/nodes/{id}")
async def show_node(request: web.Request) -> web.Response:
    here = context(request)
    snapshot = await here.fleet.snapshot()
    node = _node(request, snapshot)
    samples = await here.registry.samples([node.id])
    return web.json_response(node_view(node, samples.get(node.id), snapshot.scores.get(node.id)))


@routes.post("/api/nodes/{country}/start")
async def start_node(request: web.Request) -> web.Response:
    country = country_of(request.match_info["country"])
    wish = await read_body(request, StartBody, query=True)
    node = await context(request).fleet.start(country, wish.server, wish.city, wish.protocol)
    body = {"status": STATUS[node.status], "node_id": node.id, "country": node.country, "server": node.vpn_server}
    return web.json_response(body, status=202)


@routes.delete("/api/nodes/{id}/stop")
async def stop_node(request: web.Request) -> web.Response:
    node = await context(request).fleet.stop(_node_id(request))
    body = {"status": STATUS[node.status], "node_id": node.id, "country": node.country}
    return web.json_response(body, status=200 if node.status.ended else 202)


@routes.get("/api/nodes/{id}/logs")
async def node_logs(request: web.Request) -> web.Response:
    here = context(request)
    lines = _lines(request)
    node = _node(request, await here.fleet.snapshot())
    text = here.files.log(node.id)
    if not text and here.engine is not None:
        name = container_name(node.id)
        found = [c for c in await here.engine.containers() if c.name == name and c.node == node.id]
        text = await here.engine.logs(found[0].id, lines) if found else ""
    kept = text.splitlines()[-lines:]
    body = {"node_id": node.id, "lines": len(kept), "logs": "".join(f"{line}\n" for line in kept)}
    return web.json_response(body)


def _node_id(request: web.Request) -> str:
    node_id = request.match_info["id"]
    if not NODE_ID.fullmatch(node_id):
        raise bad_request("that is not a node id: two letters and six hex digits, such as jp3f9a1c")
    return node_id


def _node(request: web.Request, snapshot: Snapshot) -> Node:
    node_id = _node_id(request)
    node = snapshot.nodes.get(node_id)
    if node is None:
        raise ApiError(404, "not_found", f"there is no node {node_id}")
    return node


def _lines(request: web.Request) -> int:
    text = request.query.get("lines", str(DEFAULT_LINES))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_LINES:
        raise bad_request(f"lines: a number from 1 to {MAX_LINES}")
    return int(text)

"""/api/pools and /api/countries."""

from aiohttp import web

from control.api.bodies import PoolBody, ScaleBody, country_of, read_body
from control.api.context import Context, context
from control.api.views import pool_view
from control.providers import ProviderError
from health.model import Pool
from health.registry import Snapshot

routes = web.RouteTableDef()


@routes.get("/api/pools")
async def list_pools(request: web.Request) -> web.Response:
    here = context(request)
    snapshot = await here.fleet.snapshot()
    pools = [snapshot.pools[country] for country in sorted(snapshot.pools)]
    return web.json_response([_view(here, snapshot, pool) for pool in pools])


@routes.get("/api/pools/{country}")
async def show_pool(request: web.Request) -> web.Response:
    here = context(request)
    country = country_of(request.match_info["country"])
    snapshot = await here.fleet.snapshot()
    return web.json_response(_view(here, snapshot, here.fleet.pool_of(snapshot, country)))


@routes.put("/api/pools/{country}")
async def put_pool(request: web.Request) -> web.Response:
    country = country_of(request.match_info["country"])
    body = await read_body(request, PoolBody)
    changes = body.model_dump(exclude_none=True, exclude={"version"})
    return await _changed(request, await context(request).fleet.change_pool(country, changes, body.version))


@routes.post("/api/pools/{country}/scale")
async def scale_pool(request: web.Request) -> web.Response:
    country = country_of(request.match_info["country"])
    body = await read_body(request, ScaleBody)
    return await _changed(request, await context(request).fleet.scale(country, body.nodes))


@routes.get("/api/countries")
async def list_countries(request: web.Request) -> web.Response:
    """Codes of all countries a node can be started in, or that have a pool or a node."""
    here = context(request)
    snapshot = await here.fleet.snapshot()
    found = set(snapshot.pools) | {node.country for node in snapshot.nodes.values() if not node.status.ended}
    provider = here.providers.get(here.default_provider)
    if provider is not None and here.engine is not None:
        try:
            found |= set(await provider.countries())
        except ProviderError as error:
            if not found:
                raise
            return web.json_response(sorted(found), headers={"Warning": f'199 - "{_plain(str(error))}"'})
    return web.json_response(sorted(found))


async def _changed(request: web.Request, pool: Pool) -> web.Response:
    here = context(request)
    return web.json_response(_view(here, await here.fleet.snapshot(), pool))


def _view(here: Context, snapshot: Snapshot, pool: Pool) -> dict[str, object]:
    nodes = list(snapshot.nodes.values())
    waiting = sum(node.country == pool.country and node.status.value == "serving" for node in nodes) < pool.desired
    return pool_view(pool, nodes, here.reconciler.trouble(pool.country) if waiting else "")


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isascii() and c.isprintable() and c not in '"\\')

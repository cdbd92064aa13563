"""The application and its listener."""

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from control.api import nodes, pools, users
from control.api.auth import basic_auth
from control.api.context import CONTEXT, Context, context
from control.api.errors import errors_as_json
from health.registry import RegistryError

MAX_BODY = 64 * 1024
CLOSE_WITHIN_S = 5.0

routes = web.RouteTableDef()


@routes.get("/api/health")
async def health(request: web.Request) -> web.Response:
    """Open to all, no secrets. 200 while the API serves; `status` is `degraded` while a part is missing."""
    here = context(request)
    try:
        await here.registry.ping()
        redis = "ok"
    except RegistryError:
        redis = "down"
    docker = "none" if here.engine is None else "down" if here.reconciler.engine_trouble else "ok"
    status = "ok" if redis == "ok" and docker != "down" else "degraded"
    return web.json_response({"status": status, "redis": redis, "docker": docker, "leader": here.reconciler.leader})


def application(here: Context, password: str) -> web.Application:
    """The whole API for one context; `password` is that of user `admin`."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[errors_as_json, basic_auth(password)])
    app[CONTEXT] = here
    for table in (routes, nodes.routes, pools.routes, users.routes):
        app.add_routes(table)
    return app


@contextlib.asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Listen while inside; gives the port. Raises OSError where the address is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_WITHIN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()

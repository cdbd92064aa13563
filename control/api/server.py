"""The application: all tables, and what one instance remembers."""

from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from control.api import (
    balancer,
    documents,
    events,
    metrics,
    nodes,
    pac,
    pools,
    servers,
    speed,
    status,
    tokens,
    users,
)
from control.api.board import Board
from control.api.context import CONTEXT, PARTS, Context, Parts
from control.api.envelope import envelope
from control.api.feed import Feed
from control.api.gate import Gate
from control.api.gateways import Gateways
from control.api.metrics import Metrics
from control.api.streams import Streams
from control.api.table import Operation

MAX_BODY = 64 * 1024
TABLES = (
    nodes.table,
    pools.table,
    balancer.table,
    users.table,
    tokens.table,
    servers.table,
    speed.table,
    status.table,
    metrics.table,
    events.table,
    pac.table,
    documents.table,
)
OPERATIONS = tuple(operation for table in TABLES for operation in table.operations)


def application(here: Context, password: str) -> web.Application:
    """The whole API for one context; `password` is that of user `admin`."""
    feed = Feed(here.registry)
    made = Parts(
        feed=feed,
        board=Board(here.fleet, here.registry, feed),
        gate=Gate(password, here.registry, feed),
        streams=Streams(),
        metrics=Metrics(),
        gateways=Gateways(here.gateways, here.metrics_token),
    )
    feed.listen(made.streams.heard)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[envelope(here, made)])
    app[CONTEXT], app[PARTS] = here, made
    app[documents.DOCUMENT] = documents.document_of(OPERATIONS)
    for operation in OPERATIONS:
        serve = _serving(operation)
        route = app.router.add_route(operation.method, _pattern(operation.path), serve)
        if operation.method == "GET" and operation.media != events.MEDIA and route.resource is not None:
            route.resource.add_route("HEAD", serve)  # type: ignore[attr-defined]
    app.cleanup_ctx.append(_listening)
    app.on_shutdown.append(_end_streams)
    return app


def _serving(operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    # The envelope, which knows who asks, runs the operation itself.
    async def serve(request: web.Request) -> web.StreamResponse:
        raise AssertionError("an operation was reached without the envelope")

    serve.operation = operation  # type: ignore[attr-defined]
    return serve


def _pattern(path: str) -> str:
    # "results" is a path of its own beside {id}: another method there is not allowed, rather than a wrong id.
    return path.replace("{id}", "{id:(?!results$)[^{}/]+}")


async def _listening(app: web.Application) -> AsyncIterator[None]:
    async with app[PARTS].feed.running():
        yield


async def _end_streams(app: web.Application) -> None:
    app[PARTS].streams.close()

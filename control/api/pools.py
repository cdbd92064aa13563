"""/api/pools and /api/countries."""

from typing import Any

from control.api.bodies import Country, Empty, NoQuery, PoolBody, ScaleBody
from control.api.context import Context
from control.api.table import Answer, Call, Table
from control.api.views import DeletedView, PoolView, pool_view
from control.providers import ProviderError
from health.model import Pool, Scope
from health.registry import Snapshot, StaleVersionError

table = Table("pools")


@table.add("GET", "/api/pools", "pool.list", answer=list[PoolView])
async def list_pools(call: Call[Empty, NoQuery]) -> list[PoolView]:
    """All pools"""
    snapshot = await call.here.fleet.snapshot()
    return [_view(call.here, snapshot, snapshot.pools[country]) for country in sorted(snapshot.pools)]


@table.add("GET", "/api/pools/{country}", "pool.show", answer=PoolView)
async def show_pool(call: Call[Empty, NoQuery]) -> Answer:
    """One pool

    A country without one is answered as it would begin. ETag is its version, for If-Match.
    """
    snapshot = await call.here.fleet.snapshot()
    return _answer(call.here, snapshot, call.here.fleet.pool_of(snapshot, call.path["country"]))


@table.add(
    "PUT",
    "/api/pools/{country}",
    "pool.change",
    scope=Scope.OPERATE,
    answer=PoolView,
    refusals=(409, 422),
    body=PoolBody,
    if_match=True,
)
async def put_pool(call: Call[PoolBody, NoQuery]) -> Answer:
    """Change a pool, or make one

    With `version` in the body, or with If-Match, only if nobody changed it since.
    """
    return await _change(call, call.body.changes(), call.body.version)


@table.add(
    "DELETE",
    "/api/pools/{country}",
    "pool.remove",
    scope=Scope.OPERATE,
    answer=DeletedView,
    refusals=(404, 409),
    if_match=True,
)
async def delete_pool(call: Call[Empty, NoQuery]) -> DeletedView:
    """Remove a pool

    Only one that wants no node and has none: else 409 says what to do first. With If-Match only if nobody changed it
    since.
    """
    country = call.path["country"]
    await call.here.fleet.remove_pool(country, await _version(call, None))
    return DeletedView(name=country)


@table.add(
    "POST",
    "/api/pools/{country}/scale",
    "pool.scale",
    scope=Scope.OPERATE,
    answer=PoolView,
    refusals=(409, 422),
    body=ScaleBody,
    if_match=True,
)
async def scale_pool(call: Call[ScaleBody, NoQuery]) -> Answer:
    """Give a country so many nodes"""
    return await _change(call, {"desired": call.body.nodes})


@table.add(
    "POST",
    "/api/pools/{country}/rotate",
    "pool.rotate",
    scope=Scope.OPERATE,
    answer=PoolView,
    statuses=(202,),
    refusals=(404, 409),
)
async def rotate_pool(call: Call[Empty, NoQuery]) -> Answer:
    """Replace every node of a country by a fresh one

    One after the other, each successor serving before its predecessor is drained.
    """
    await call.here.fleet.rotate(call.path["country"])
    snapshot = await call.here.fleet.snapshot()
    answer = _answer(call.here, snapshot, call.here.fleet.pool_of(snapshot, call.path["country"]))
    return Answer(answer.value, 202, answer.headers)


@table.add("GET", "/api/countries", "country.list", answer=list[Country])
async def list_countries(call: Call[Empty, NoQuery]) -> Answer:
    """Countries a node can be started in, or that have a pool or a node

    Where the provider does not answer, only the latter, with a Warning field saying why.
    """
    here = call.here
    snapshot = await here.fleet.snapshot()
    found = set(snapshot.pools) | {node.country for node in snapshot.nodes.values() if not node.status.ended}
    provider = here.providers.get(here.default_provider)
    if provider is not None and here.engine is not None:
        try:
            found |= set(await provider.countries())
        except ProviderError as error:
            if not found:
                raise
            return Answer(sorted(found), headers={"Warning": f'199 - "{plain(str(error))}"'})
    return Answer(sorted(found))


async def _change(call: Call[Any, Any], changes: dict[str, Any], version: int | None = None) -> Answer:
    fleet = call.here.fleet
    pool = await fleet.change_pool(call.path["country"], changes, await _version(call, version))
    return _answer(call.here, await fleet.snapshot(), pool)


async def _version(call: Call[Any, Any], named: int | None) -> int | None:
    """The version that is to be changed, by If-Match and by the body (`named`); None: any.

    Raises StaleVersionError where If-Match names none, or another one than the body.
    """
    text = call.if_match
    if text is None:
        return named
    version = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if version < 0 or named not in (None, version):
        pool = call.here.fleet.pool_of(await call.here.fleet.snapshot(), call.path["country"])
        raise StaleVersionError(pool.version)
    return version


def _answer(here: Context, snapshot: Snapshot, pool: Pool) -> Answer:
    return Answer(_view(here, snapshot, pool), headers={"ETag": f'"{pool.version}"'})


def _view(here: Context, snapshot: Snapshot, pool: Pool) -> PoolView:
    nodes = list(snapshot.nodes.values())
    waiting = sum(node.country == pool.country and node.status.value == "serving" for node in nodes) < pool.desired
    return pool_view(pool, nodes, here.reconciler.trouble(pool.country) if waiting else "")


def plain(text: str) -> str:
    """`text` as it may stand between quotes in a header field."""
    return "".join(c for c in text if c.isascii() and c.isprintable() and c not in '"\\')

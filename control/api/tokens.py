"""/api/tokens: who else may ask the API. A secret is shown when it is made, and never again."""

import time

from control.api.bodies import Empty, NoQuery, TokenBody
from control.api.errors import ApiError
from control.api.table import Call, Table
from control.api.views import DeletedView, NewTokenView, TokenView, token_view
from control.tokens import new_token
from health.model import Scope

MOST = 1000

table = Table("tokens")


@table.add("GET", "/api/tokens", "token.list", scope=Scope.ADMIN, answer=list[TokenView])
async def list_tokens(call: Call[Empty, NoQuery]) -> list[TokenView]:
    """All tokens, without their secrets"""
    found = (await call.here.registry.tokens()).values()
    now = time.time()
    return [token_view(token, now) for token in sorted(found, key=lambda token: (token.created_at, token.id))]


@table.add(
    "POST",
    "/api/tokens",
    "token.add",
    scope=Scope.ADMIN,
    answer=NewTokenView,
    statuses=(201,),
    refusals=(409,),
    body=TokenBody,
)
async def create_token(call: Call[TokenBody, NoQuery]) -> NewTokenView:
    """Make a token

    `read` may look, `operate` may start, stop and scale as well, `admin` may do everything. Its secret is shown in this
    answer only. With `ttl` it is worth nothing after so many seconds, and stays in the list until it is removed.
    """
    await call.here.fleet.snapshot()  # a registry that is being refilled takes no new records
    if len(await call.here.registry.tokens()) >= MOST:
        raise ApiError(409, "limit", f"there are {MOST} tokens already: remove some first")
    now = time.time()
    token, secret = new_token(call.body.name, call.body.scope, now, call.body.ttl)
    call.subject = token.id
    await call.here.registry.put_token(token)
    return NewTokenView(**token_view(token, now).model_dump(), token=secret)


@table.add("DELETE", "/api/tokens/{token}", "token.remove", scope=Scope.ADMIN, answer=DeletedView, refusals=(404,))
async def delete_token(call: Call[Empty, NoQuery]) -> DeletedView:
    """Remove a token

    Nobody gets in with it any more, and its streams of events end.
    """
    token = await call.here.registry.token(call.path["token"])
    if token is None:
        raise ApiError(404, "not_found", "there is no such token")
    await call.here.registry.delete_token(token.id)
    return DeletedView(name=token.name)

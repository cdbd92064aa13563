"""/api/users: the proxy's users. A password goes in and never comes out, nor does its hash.

What a user moved this month belongs to the name: a user deleted and made again goes on with it.
"""

import time
from typing import Any

from aiohttp import web

from control.api.bodies import UserBody, read_body
from control.api.context import context
from control.api.errors import ApiError
from control.api.views import user_view
from control.passwords import hash_password
from health.limits import month_of
from health.model import User

routes = web.RouteTableDef()


@routes.get("/api/users")
async def list_users(request: web.Request) -> web.Response:
    users = (await context(request).fleet.snapshot()).users
    return web.json_response(await _views(request, [users[name] for name in sorted(users)]))


@routes.get("/api/users/{name}")
async def show_user(request: web.Request) -> web.Response:
    user = (await context(request).fleet.snapshot()).users.get(request.match_info["name"])
    if user is None:
        raise ApiError(404, "not_found", "there is no such user")
    return web.json_response((await _views(request, [user]))[0])


@routes.post("/api/users")
async def create_user(request: web.Request) -> web.Response:
    here = context(request)
    body = await read_body(request, UserBody)
    if body.name in (await here.fleet.snapshot()).users:
        raise ApiError(409, "exists", f"there is a user {body.name} already: delete it first")
    user = User(
        name=body.name,
        password_hash=await hash_password(body.password),
        allowed_countries=body.allowed_countries,
        default_country=body.default_country,
        max_connections=body.max_connections,
        bytes_per_second=body.bytes_per_second,
        monthly_bytes=body.monthly_bytes,
    )
    await here.registry.put_user(user)
    here.changed()
    return web.json_response((await _views(request, [user]))[0], status=201)


@routes.delete("/api/users/{name}")
async def delete_user(request: web.Request) -> web.Response:
    here = context(request)
    name = request.match_info["name"]
    if name not in (await here.fleet.snapshot()).users:
        raise ApiError(404, "not_found", "there is no such user")
    await here.registry.delete_user(name)
    here.changed()
    return web.json_response({"status": "deleted", "name": name})


async def _views(request: web.Request, users: list[User]) -> list[dict[str, Any]]:
    used = await context(request).registry.usage([user.name for user in users], month_of(time.time()))
    return [user_view(user, used.get(user.name)) for user in users]

"""/api/users: the proxy's users. A password goes in and never comes out, nor does its hash."""

from aiohttp import web

from control.api.bodies import UserBody, read_body
from control.api.context import context
from control.api.errors import ApiError
from control.api.views import user_view
from control.passwords import hash_password
from health.model import User

routes = web.RouteTableDef()


@routes.get("/api/users")
async def list_users(request: web.Request) -> web.Response:
    users = (await context(request).fleet.snapshot()).users
    return web.json_response([user_view(users[name]) for name in sorted(users)])


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
    )
    await here.registry.put_user(user)
    here.changed()
    return web.json_response(user_view(user), status=201)


@routes.delete("/api/users/{name}")
async def delete_user(request: web.Request) -> web.Response:
    here = context(request)
    name = request.match_info["name"]
    if name not in (await here.fleet.snapshot()).users:
        raise ApiError(404, "not_found", "there is no such user")
    await here.registry.delete_user(name)
    here.changed()
    return web.json_response({"status": "deleted", "name": name})

"""/api/users: the proxy's users. A password goes in and never comes out, nor does its hash.

What a user moved this month belongs to the name: a user deleted and made again goes on with it.
"""

import hashlib
import time
from typing import Any

from control.api.bodies import Empty, NoQuery, UserBody, UserPatch
from control.api.errors import ApiError
from control.api.table import Answer, Call, Table
from control.api.views import DeletedView, UserView, user_view
from control.passwords import hash_password
from health.limits import month_of
from health.model import Scope, User

table = Table("users")


@table.add("GET", "/api/users", "user.list", answer=list[UserView])
async def list_users(call: Call[Empty, NoQuery]) -> list[UserView]:
    """All proxy users"""
    users = (await call.here.fleet.snapshot()).users
    return await _views(call, [users[name] for name in sorted(users)])


@table.add("GET", "/api/users/{name}", "user.show", answer=UserView, refusals=(404,))
async def show_user(call: Call[Empty, NoQuery]) -> Answer:
    """One proxy user"""
    return await _answer(call, await _user(call))


@table.add(
    "POST",
    "/api/users",
    "user.add",
    scope=Scope.ADMIN,
    answer=UserView,
    statuses=(201,),
    refusals=(409, 422),
    body=UserBody,
)
async def create_user(call: Call[UserBody, NoQuery]) -> Answer:
    """Add a proxy user"""
    here, body = call.here, call.body
    if body.name in (await here.fleet.snapshot()).users:
        raise _exists(body.name)
    fields = body.model_dump(exclude={"password"})
    user = User(password_hash=await hash_password(body.password), **fields)
    if not await here.registry.swap_user(user, None):
        raise _exists(body.name)
    here.changed()
    return await _answer(call, user, 201)


async def change_user(call: Call[UserPatch, NoQuery]) -> Answer:
    """Change a proxy user

    What is left out stays as it is; null lifts a limit. With If-Match only if nobody changed it since.
    """
    old = await _matching(call)
    changes = call.body.model_dump(exclude_unset=True, exclude={"password"})
    if call.body.password is not None:
        changes["password_hash"] = await hash_password(call.body.password)
    user = old.model_copy(update=changes)
    if user.allowed_countries and user.default_country not in (None, *user.allowed_countries):
        raise ApiError(422, "contradiction", "default_country would not be among allowed_countries")
    if not await call.here.registry.swap_user(user, old):
        raise _stale(old.name)
    call.here.changed()
    return await _answer(call, user)


for _method, _name in (("PATCH", "user.change"), ("PUT", "user.put")):
    table.add(
        _method,
        "/api/users/{name}",
        _name,
        scope=Scope.ADMIN,
        answer=UserView,
        refusals=(404, 409, 422),
        body=UserPatch,
        if_match=True,
    )(change_user)


@table.add(
    "DELETE",
    "/api/users/{name}",
    "user.remove",
    scope=Scope.ADMIN,
    answer=DeletedView,
    refusals=(404, 409),
    if_match=True,
)
async def delete_user(call: Call[Empty, NoQuery]) -> DeletedView:
    """Remove a proxy user"""
    user = await _matching(call)
    if not await call.here.registry.removal.user(user):
        raise _stale(user.name)
    call.here.changed()
    return DeletedView(name=user.name)


async def _user(call: Call[Any, Any]) -> User:
    """The user of the path. Raises ApiError 404."""
    user = (await call.here.fleet.snapshot()).users.get(call.path["name"])
    if user is None:
        raise ApiError(404, "not_found", "there is no such user")
    return user


async def _matching(call: Call[Any, Any]) -> User:
    """The user of the path, if it is the one that If-Match means. Raises ApiError 404 or 409."""
    user = await _user(call)
    if call.if_match not in (None, _version(user)):
        raise _stale(user.name)
    return user


def _version(user: User) -> str:
    # A digest of the whole record: it differs also where only the password was changed, and tells nothing of it.
    return hashlib.sha256(user.dump().encode()).hexdigest()[:16]


def _exists(name: str) -> ApiError:
    return ApiError(409, "exists", f"there is a user {name} already: delete it first")


def _stale(name: str) -> ApiError:
    return ApiError(409, "stale_version", f"user {name} was changed by somebody else: read it again")


async def _answer(call: Call[Any, Any], user: User, status: int | None = None) -> Answer:
    return Answer((await _views(call, [user]))[0], status, {"ETag": f'"{_version(user)}"'})


async def _views(call: Call[Any, Any], users: list[User]) -> list[UserView]:
    used = await call.here.registry.usage([user.name for user in users], month_of(time.time()))
    return [user_view(user, used.get(user.name)) for user in users]

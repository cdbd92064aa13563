"""What every request goes through, whatever it asks: its id, who sent it, whether they may, the audit log, one form of
refusal, and header fields that keep browsers from harm.
"""

import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware
from multidict import istr

from control import audit
from control.api.context import REQUEST_ID, Context, Parts
from control.api.errors import REASON, ApiError, told
from control.api.gate import ANYBODY, Principal
from control.api.ready import HEADERS, Ready
from control.api.table import Operation

_X_REQUEST_ID = istr("X-Request-Id")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_HEADERS = tuple(HEADERS.items())
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def envelope(here: Context, made: Parts) -> Middleware:
    """The one middleware: every answer passes through here, also to paths that do not exist."""
    ids = _Ids()

    @web.middleware
    async def wrap(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.monotonic()
        offered = request.headers.get(_X_REQUEST_ID)
        request[REQUEST_ID] = offered if offered is not None and _ID.fullmatch(offered) else ids.next()
        operation: Operation | None = getattr(handler, "operation", None)
        try:
            if operation is None:
                await made.gate.admit(request)
                response = await handler(request)
            elif operation.changes:
                response = await _change(here, made, request, operation)
            else:
                who = made.gate.at_once(request) or _allowed(
                    await _principal(here, made, request, operation), operation
                )
                response, _ = await operation.run(request, here, made, who)
        except Exception as error:
            response = told(error, request.method, request.path, request[REQUEST_ID])
        if type(response) is not Ready:
            dress(request, response)
        name = operation.name if operation else "none"
        made.metrics.answered(name, response.status, time.monotonic() - began)
        return response

    return wrap


class _Ids:
    """Request ids: chance once, then a number."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def next(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"


def dress(request: web.Request, response: web.StreamResponse) -> None:
    """Give `response` the fields that every answer has."""
    if response.prepared:
        return
    fields = response.headers
    fields["X-Request-Id"] = request[REQUEST_ID]
    for name, value in _HEADERS:
        if name not in fields:
            fields[name] = value


async def _change(here: Context, made: Parts, request: web.Request, operation: Operation) -> web.StreamResponse:
    who = await _principal(here, made, request, operation)
    subject = next(iter(request.match_info.values()), "")
    try:
        _same_origin(request)
        _allowed(who, operation)
        response, subject = await operation.run(request, here, made, who)
    except Exception as error:
        refused = told(error, request.method, request.path, request[REQUEST_ID])
        await _recorded(here, made, request, operation, who, subject, refused[REASON])
        return refused
    made.board.forget()
    await _recorded(here, made, request, operation, who, subject, "done")
    return response


async def _principal(here: Context, made: Parts, request: web.Request, operation: Operation) -> Principal:
    """Who sent `request`, if the operation is not open. Raises ApiError 401 or 429."""
    if operation.scope is None or (operation.may_be_open and here.metrics_open):
        return ANYBODY
    return await made.gate.admit(request)


def _allowed(who: Principal, operation: Operation) -> Principal:
    """`who`, if their scope is enough. Raises ApiError 403."""
    if operation.scope is not None and not who.scope.includes(operation.scope):
        raise ApiError(403, "forbidden", f"this takes the scope {operation.scope.value}, yours is {who.scope.value}")
    return who


def _same_origin(request: web.Request) -> None:
    # A browser sends the admin's remembered password along with what any other page makes it send.
    origin = request.headers.get("Origin")
    if origin is None:
        return
    try:
        own = urlsplit(origin).netloc == request.headers.get("Host", "")
    except ValueError:
        own = False
    if not own:
        raise ApiError(403, "cross_origin", "another site's page sent this: changes are taken from this API's own only")


async def _recorded(
    here: Context, made: Parts, request: web.Request, operation: Operation, who: Principal, subject: str, outcome: str
) -> None:
    subject = "".join(c if c.isprintable() else "?" for c in subject[:64])
    change = audit.Change(who.name, operation.name, subject, outcome, request[REQUEST_ID])
    made.metrics.changed(operation.name, outcome == "done")
    async with made.feed.echo() as mark:
        await audit.tell(here.registry, change, mark)

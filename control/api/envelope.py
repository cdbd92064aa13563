"""What every request goes through, whatever it asks: its id, who sent it, whether they may, the audit log, one form of
refusal, and header fields that keep browsers from harm.
"""

import ipaddress
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from control import audit
from control.api.context import context, parts
from control.api.errors import REASON, ApiError, told
from control.api.gate import ANYBODY, Principal
from control.api.table import Operation

log = structlog.get_logger()
REQUEST_ID = web.RequestKey("request_id", str)
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-Ip")
HEADERS = {
    "Server": "vpnexit",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_HEADERS = tuple(HEADERS.items())
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one middleware: every answer passes through here, also to paths that do not exist."""
    began = time.monotonic()
    offered = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = offered if _ID.fullmatch(offered) else secrets.token_hex(8)
    operation: Operation | None = getattr(handler, "operation", None)
    try:
        if operation is None:
            await parts(request).gate.admit(request)
            response = await handler(request)
        else:
            response = await _granted(request, operation)
    except Exception as error:
        response = told(error, request.method, request.path, request[REQUEST_ID])
    dress(request, response)
    name = operation.name if operation else "none"
    parts(request).metrics.answered(name, response.status, time.monotonic() - began)
    return response


def dress(request: web.Request, response: web.StreamResponse) -> None:
    """Give `response` the fields that every answer has."""
    if response.prepared:
        return
    fields = response.headers
    fields["X-Request-Id"] = request[REQUEST_ID]
    for name, value in _HEADERS:
        if name not in fields:
            fields[name] = value


async def _granted(request: web.Request, operation: Operation) -> web.StreamResponse:
    who = await _principal(request, operation)
    if not operation.changes:
        response, _ = await operation.run(request, who)
        return response
    subject = next(iter(request.match_info.values()), "")
    try:
        _same_origin(request)
        _may(who, operation)
        response, subject = await operation.run(request, who)
    except Exception as error:
        refused = told(error, request.method, request.path, request[REQUEST_ID])
        await _recorded(request, operation, who, subject, refused[REASON])
        return refused
    parts(request).board.forget()
    await _recorded(request, operation, who, subject, "done")
    return response


async def _principal(request: web.Request, operation: Operation) -> Principal:
    if operation.scope is None or (operation.open_on_loopback and is_local(request)):
        return ANYBODY
    who = await parts(request).gate.admit(request)
    if not operation.changes:
        _may(who, operation)
    return who


def _may(who: Principal, operation: Operation) -> None:
    if operation.scope is not None and not who.scope.includes(operation.scope):
        raise ApiError(403, "forbidden", f"this takes the scope {operation.scope.value}, yours is {who.scope.value}")


def is_local(request: web.Request) -> bool:
    """Whether `request` came to a loopback listener, and not by way of another proxy there."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    name: Any = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return isinstance(name, tuple) and _is_loopback(name[0])


@lru_cache(64)
def _is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


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


async def _recorded(request: web.Request, operation: Operation, who: Principal, subject: str, outcome: str) -> None:
    subject = "".join(c if c.isprintable() else "?" for c in subject[:64])
    change = audit.Change(who.name, operation.name, subject, outcome, request[REQUEST_ID])
    here = parts(request)
    here.metrics.changed(operation.name, outcome == "done")
    async with here.feed.echo() as mark:
        await audit.tell(context(request).registry, change, mark)

"""HTTP Basic for the operator (RFC 7617): user `admin` and the generated password."""

import base64
import binascii
import hmac

from aiohttp import web
from aiohttp.typedefs import Middleware

from control.api.errors import ApiError, Handler

USER = "admin"
OPEN = frozenset({"/api/health"})
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="vpnexit", charset="UTF-8"'}


def basic_auth(password: str) -> Middleware:
    """A middleware that lets nobody else in, but for the open paths."""
    expected = f"{USER}:{password}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN and not hmac.compare_digest(_offered(request), expected):
            raise ApiError(401, "unauthorized", "user name or password is missing or wrong", _CHALLENGE)
        return await handler(request)

    return check


def _offered(request: web.Request) -> bytes:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""

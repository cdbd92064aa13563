"""Who asks, and how much they may do. Deny by default: an operation without a scope is open because its table says so.

HTTP Basic (RFC 7617) for `admin` with the generated password, Bearer tokens (RFC 6750) for everybody else. Tokens are
looked up in the registry and remembered while changes are heard of; failed log-ins are slowed per address.
"""

import base64
import binascii
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web

from control import tokens
from control.api.errors import ApiError
from control.api.feed import Feed
from control.api.slowdown import Slowdown
from control.api.views import shown_time
from health.model import Scope, Token
from health.registry import Registry

USER = "admin"
TOKENS_KEPT = 1000
_EXPIRED = {"WWW-Authenticate": 'Bearer realm="vpnexit", error="invalid_token"'}
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="vpnexit", charset="UTF-8"'}


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever proved who they are. `name` is `admin` or `token:<id>`; `until`: Unix seconds, None without end."""

    name: str
    scope: Scope
    until: float | None = None


ADMIN = Principal(USER, Scope.ADMIN)
ANYBODY = Principal("anybody", Scope.READ)


class Gate:
    """Judges the Authorization field of requests. `clock` gives monotonic seconds, `wall` Unix seconds."""

    def __init__(
        self,
        password: str,
        registry: Registry,
        feed: Feed,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._expected = f"{USER}:{password}".encode()
        # What nearly every client sends for it, so that nothing has to be decoded.
        self._usual = b"Basic " + base64.b64encode(self._expected)
        self._registry = registry
        self._feed = feed
        self._clock = clock
        self._wall = wall
        self._known: OrderedDict[str, tuple[int, Token]] = OrderedDict()
        self._changes = 0
        self.slowdown = Slowdown()
        feed.listen(self._heard)

    def at_once(self, request: web.Request) -> Principal | None:
        """Who sent `request`, where nothing has to be looked up and nobody failed lately; None says nothing."""
        header = request.headers.get(hdrs.AUTHORIZATION)
        if header is None or self.slowdown or not hmac.compare_digest(_bytes(header), self._usual):
            return None
        self.slowdown.succeeded(request.remote or "unknown", header)
        return ADMIN

    async def admit(self, request: web.Request) -> Principal:
        """Who sent `request`. Raises ApiError 401 or 429, and RegistryError where a token cannot be looked up."""
        header = request.headers.get(hdrs.AUTHORIZATION, "")
        if not header:
            raise ApiError(401, "unauthorized", "log in: as user admin, or with a token", _CHALLENGE)
        address = request.remote or "unknown"
        # A token of 256 bits is not guessed: whoever has one is not kept waiting for what others do.
        principal = await self._bearer(header)
        if principal is not None:
            return principal
        wait = self.slowdown.wait(address, header, self._clock())
        if wait:
            seconds = math.ceil(wait)
            text = f"too many failed log-ins from this address: try again in {seconds} s"
            raise ApiError(429, "slowed", text, {"Retry-After": str(seconds)})
        if not self._is_admin(header):
            self.slowdown.failed(address, self._clock())
            raise ApiError(401, "unauthorized", "user name, password or token is wrong", _CHALLENGE)
        self.slowdown.succeeded(address, header)
        return ADMIN

    def _is_admin(self, header: str) -> bool:
        scheme, _, value = header.partition(" ")
        return scheme.lower() == "basic" and hmac.compare_digest(_decoded(value), self._expected)

    async def _bearer(self, header: str) -> Principal | None:
        scheme, _, secret = header.partition(" ")
        token_id = tokens.id_in(secret.strip()) if scheme.lower() == "bearer" else ""
        token = await self._token(token_id) if token_id else None
        if token is None or not tokens.matches(token, secret.strip()):
            return None
        if tokens.expired(token, self._wall()):
            # Told to nobody but its owner: whoever sent this has the secret.
            text = f"this token expired at {shown_time(token.expires_at)}: ask for a new one"
            raise ApiError(401, "token_expired", text, _EXPIRED)
        return Principal(f"token:{token.id}", token.scope, token.expires_at)

    async def _token(self, token_id: str) -> Token | None:
        changes, token = self._known.get(token_id, (-1, None))
        if token is not None and changes == self._changes and self._feed.alive:
            return token
        changes = self._changes
        token = await self._registry.token(token_id)
        self._known.pop(token_id, None)
        if token is not None:
            self._known[token_id] = (changes, token)
            if len(self._known) > TOKENS_KEPT:
                self._known.popitem(last=False)
        return token

    def _heard(self, event: dict[str, Any] | None) -> None:
        if event is None or event.get("kind") in ("token", "epoch"):
            self._changes += 1


def _bytes(header: str) -> bytes:
    return header.encode("utf-8", "surrogateescape")


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""

"""Where connections come in: how many at once and from whom, how long one may be silent, and what is said to bytes
that are no HTTP.

aiohttp by itself waits for a first request for ever, and logs the bytes that it did not understand.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_request import BaseRequest

from control.api.context import PARTS
from control.api.errors import ApiError, body_of
from control.api.metrics import Metrics
from control.api.places import Places
from control.api.slowdown import block_of
from control.api.unparsed import refused

MOST_CONNECTIONS = 1000
FIRST_REQUEST_S = 10.0
KEEP_ALIVE_S = 75.0
"""How long a connection may stay without a further request: aiohttp's default is an hour."""
CLOSE_WITHIN_S = 5.0
_GOODBYE_S = 1.0
_GOODBYES = 100
_LOGGER = logging.getLogger("control.api")


@contextlib.asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Listen while inside; gives the port. Raises OSError where the address is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_WITHIN_S)
    await runner.setup()
    try:
        made = _factory(runner, _Door(asyncio.get_running_loop(), app[PARTS].metrics))
        server = await asyncio.get_running_loop().create_server(made, host, port, backlog=128)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
    finally:
        await runner.cleanup()


def _factory(runner: web.AppRunner, door: "_Door") -> Callable[[], asyncio.Protocol]:
    server = runner.server
    if server is None:
        raise RuntimeError("the runner is not set up")
    return lambda: _Connection(server, door)


class _Door:
    """What the connections of one listener share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self.loop = loop
        self.metrics = metrics
        self.places = Places(MOST_CONNECTIONS)
        self.leaving = 0


class _Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_block", "_door", "_turned_away")

    def __init__(self, server: web.Server, door: _Door) -> None:
        super().__init__(
            server,
            loop=door.loop,
            keepalive_timeout=KEEP_ALIVE_S,
            access_log=None,  # type: ignore[arg-type]  # web.AppRunner takes it, and hands it on
            logger=_LOGGER,
        )
        self._door = door
        self._block = b""
        self._turned_away = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._block = block_of(peer[0]) if isinstance(peer, tuple) else b""
        why = self._door.places.take(self._block)
        if why:
            self._turned_away = True
            if isinstance(transport, asyncio.Transport):
                self._turn_away(transport, why)
            return
        super().connection_made(transport)
        self._door.loop.call_later(FIRST_REQUEST_S, self._close_if_silent)

    def _turn_away(self, transport: asyncio.Transport, why: str) -> None:
        if self._door.leaving >= _GOODBYES:
            transport.abort()
            return
        # Its own bytes are on their way: it is heard out for a moment, else it would see a reset and no reason.
        self._door.leaving += 1
        self._door.metrics.answered("none", HTTPStatus.SERVICE_UNAVAILABLE, 0.0)
        transport.write(_busy(why))
        transport.write_eof()
        self._door.loop.call_later(_GOODBYE_S, transport.abort)
        self._door.loop.call_later(_GOODBYE_S, self._left)

    def _left(self) -> None:
        self._door.leaving -= 1

    def data_received(self, data: bytes) -> None:
        if not self._turned_away:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self._turned_away:
            self._door.places.give(self._block)
            super().connection_lost(exc)

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if isinstance(exc, HttpProcessingError):
            answer = refused(request, exc)
            self._door.metrics.answered("none", answer.status, 0.0)
            return answer
        return super().handle_error(request, status, exc, message)

    def _close_if_silent(self) -> None:
        # aiohttp counts the requests of a connection, and shows it to nobody; without the count nothing is closed.
        if getattr(self, "_request_count", 1) == 0:
            self.force_close()


def _busy(why: str) -> bytes:
    """The whole answer to a connection that is not taken."""
    body = body_of(ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections", f"{why}: try again in a second"))
    fields = (
        "HTTP/1.1 503 Service Unavailable",
        "Server: vpnexit",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Retry-After: 1",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(fields).encode() + body

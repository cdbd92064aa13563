"""Where connections come in: how many at once, how long one may be silent, what is logged of bytes that are no HTTP.

aiohttp by itself waits for a first request for ever, and logs the bytes that it did not understand: they may hold a
password.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

MOST_CONNECTIONS = 1000
FIRST_REQUEST_S = 10.0
KEEP_ALIVE_S = 75.0
"""How long a connection may stay without a further request: aiohttp's default is an hour."""
CLOSE_WITHIN_S = 5.0


@contextlib.asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Listen while inside; gives the port. Raises OSError where the address is taken."""
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=CLOSE_WITHIN_S,
        keepalive_timeout=KEEP_ALIVE_S,
        logger=_logger(),
    )
    await runner.setup()
    try:
        made = _bounded(runner, asyncio.get_running_loop())
        server = await asyncio.get_running_loop().create_server(made, host, port, backlog=128)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
    finally:
        await runner.cleanup()


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _bounded(runner: web.AppRunner, loop: asyncio.AbstractEventLoop) -> Callable[[], asyncio.Protocol]:
    server = runner.server
    if server is None:
        raise RuntimeError("the runner is not set up")

    def connection() -> asyncio.Protocol:
        if len(server.connections) >= MOST_CONNECTIONS:
            return _Refused()
        made = server()
        loop.call_later(FIRST_REQUEST_S, _close_if_silent, made)
        return made

    return connection


def _close_if_silent(handler: web.RequestHandler) -> None:
    # aiohttp counts the requests of a connection, and shows it to nobody; without the count nothing is closed.
    if getattr(handler, "_request_count", 1) == 0:
        handler.force_close()


def _logger() -> logging.Logger:
    logger = logging.getLogger("control.api")
    if not logger.filters:
        logger.addFilter(_not_of_bad_requests)
    return logger


def _not_of_bad_requests(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))

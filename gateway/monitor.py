"""The small HTTP listener that says how a gateway is: `/metrics` and `/ready`.

Knows nothing of what it shows.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import h11

from gateway.resources import listening_socket

_REQUEST_WITHIN_S = 5.0
_READ_SIZE = 4096
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format


class Monitor:
    """Answers `GET /metrics` with what `show` gives, and `GET /ready` with 200 while `ready`, else 503."""

    def __init__(self, ready: Callable[[], bool], show: Callable[[], Awaitable[bytes]]) -> None:
        self._ready = ready
        self._show = show
        self._server: asyncio.Server | None = None
        self.address = ""

    async def listen(self, address: str) -> None:
        """Listen on `host:port`, and no longer where it listened before. Raises OSError."""
        if address == self.address:
            return
        server = await asyncio.start_server(self._serve, sock=listening_socket(address))
        self.close()
        self._server, self.address = server, address

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
                async with asyncio.timeout(_REQUEST_WITHIN_S):
                    connection = h11.Connection(h11.SERVER)
                    request = await _next_request(connection, reader)
                    if request is not None:
                        writer.write(await self._answer(connection, request))
                        await writer.drain()
        finally:
            writer.close()

    async def _answer(self, connection: h11.Connection, request: h11.Request) -> bytes:
        status, kind, body = 404, "text/plain", b"there are /metrics and /ready\n"
        if request.method not in (b"GET", b"HEAD"):
            status, body = 405, b"only GET\n"
        elif request.target.split(b"?")[0] == b"/metrics":
            status, kind, body = 200, _EXPOSITION, await self._show()
        elif request.target == b"/ready":
            status, body = (200, b"ready\n") if self._ready() else (503, b"not ready\n")
        fields = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
        head = connection.send(h11.Response(status_code=status, headers=fields)) or b""
        return head if request.method == b"HEAD" else head + body


async def _next_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_SIZE))
        else:
            return event if isinstance(event, h11.Request) else None

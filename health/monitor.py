"""The small HTTP listener that says how a process is: `/metrics` and `/ready`.

Knows nothing of what it shows. With a token `/metrics` is for those who send it (RFC 6750); `/ready` says too little to
need one, and HAProxy's checks have none.
"""

import asyncio
import contextlib
import hmac
import socket
from collections.abc import Awaitable, Callable

import h11

_REQUEST_WITHIN_S = 5.0
_READ_SIZE = 4096
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format
_CHALLENGE = ("WWW-Authenticate", 'Bearer realm="vpnexit metrics"')


class Monitor:
    """Answers `GET /metrics` with what `show` gives, and `GET /ready` with 200 while `ready`, else 503.

    `bind` makes a listening socket of `host:port`, or raises OSError. Where `token` is not empty `/metrics` takes it.
    """

    def __init__(
        self,
        ready: Callable[[], bool],
        show: Callable[[], Awaitable[bytes]],
        bind: Callable[[str], socket.socket],
        token: str = "",
    ) -> None:
        self._ready = ready
        self._show = show
        self._bind = bind
        self._server: asyncio.Server | None = None
        self.token = token
        self.address = ""

    async def listen(self, address: str) -> None:
        """Listen on `host:port`, and no longer where it listened before. Raises OSError."""
        if address == self.address:
            return
        server = await asyncio.start_server(self._serve, sock=self._bind(address))
        self.close()
        self._server, self.address = server, address

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server, self.address = None, ""

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
        status, kind, body, more = 404, "text/plain", b"there are /metrics and /ready\n", []
        if request.method not in (b"GET", b"HEAD"):
            status, body = 405, b"only GET\n"
        elif request.target.split(b"?")[0] == b"/metrics":
            if self._allowed(request):
                status, kind, body = 200, _EXPOSITION, await self._show()
            else:
                status, body, more = 401, b"send the token (metrics.token) as Authorization: Bearer\n", [_CHALLENGE]
        elif request.target == b"/ready":
            status, body = (200, b"ready\n") if self._ready() else (503, b"not ready\n")
        fields = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close"), *more]
        head = connection.send(h11.Response(status_code=status, headers=fields)) or b""
        return head if request.method == b"HEAD" else head + body

    def _allowed(self, request: h11.Request) -> bool:
        sent = next((value for name, value in request.headers if name == b"authorization"), b"")
        scheme, _, token = sent.partition(b" ")
        return not self.token or (scheme.lower() == b"bearer" and hmac.compare_digest(token, self.token.encode()))


async def _next_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_SIZE))
        else:
            return event if isinstance(event, h11.Request) else None

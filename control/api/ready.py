"""Answers whose bytes are made once and sent many times: only the date and the request's id are new each time.

aiohttp builds the head of a response from a dictionary, field by field; for a list that is asked for all the time that
is most of the work. Only clients with HTTP/1.1 that keep their connection get it; others are answered as usual.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from control.api.context import REQUEST_ID

# Browsers: no guessing of types, no framing, nothing kept, nothing told to others.
HEADERS = {
    "Server": "vpnexit",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """An answer but for its date and request id."""

    status: int
    fields: Mapping[str, str]
    body: bytes
    ready: "Ready"

    @classmethod
    def of(cls, status: HTTPStatus, fields: Mapping[str, str], body: bytes) -> "Prepared":
        """`fields` go before those that every answer has."""
        every = {**HEADERS, **fields}
        if status != HTTPStatus.NOT_MODIFIED:
            every["Content-Length"] = str(len(body))
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in every.items())]
        return cls(status.value, every, body, Ready(status.value, "\r\n".join(lines).encode(), body))

    def answer(self, request: web.Request) -> web.StreamResponse:
        """This, for `request`."""
        if request.method == "GET" and request.version == HttpVersion11 and request.keep_alive:
            return self.ready
        return web.Response(status=self.status, headers=self.fields, body=self.body or None)


class Ready(web.StreamResponse):
    """A response that is sent in one write. It keeps nothing of a request, so that one serves all.

    `head` is without date, request id and the empty line.
    """

    _keep_alive = True

    def __init__(self, status: int, head: bytes, body: bytes) -> None:
        super().__init__(status=status)
        self._head = head
        self._body_bytes = body

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        rest = f"\r\nDate: {_date(int(time.time()))}\r\nX-Request-Id: {request[REQUEST_ID]}\r\n\r\n"
        transport.write(b"".join((self._head, rest.encode("ascii"), self._body_bytes)))
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to be sent."""


_dates: dict[int, str] = {}


def _date(second: int) -> str:
    """RFC 9110's form of a date, made once a second."""
    found = _dates.get(second)
    if found is None:
        _dates.clear()
        found = _dates[second] = formatdate(second, usegmt=True)
    return found

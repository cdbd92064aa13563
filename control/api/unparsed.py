"""What never became a request: refused by aiohttp's parser, before anything of ours saw it.

Answered like every other refusal. Nothing of the bytes is told or logged: they may hold a password.
"""

import asyncio
import secrets

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong
from aiohttp.web_request import BaseRequest

from control.api.context import REQUEST_ID
from control.api.errors import ApiError, body_of
from control.api.ready import HEADERS
from control.api.table import JSON

log = structlog.get_logger()
LINGER_S = 2.0
_POLL_S = 0.02
_TLS = "\\x16\\x03"  # how a TLS handshake begins (RFC 8446, 5.1), as aiohttp shows it


class LastWord(web.Response):
    """A response after which the connection ends.

    What the client still sends is read and dropped for a while: closed with bytes unread, the kernel would answer them
    with a reset, and the client would never see the response.
    """

    def __init__(self, error: ApiError, request_id: str) -> None:
        super().__init__(body=body_of(error), status=error.status, content_type=JSON, headers=HEADERS)
        self.headers["X-Request-Id"] = request_id
        self.force_close()
        self._request: BaseRequest | None = None

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        self._request = request
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        transport = self._request.transport if self._request is not None else None
        if self._request is None or transport is None:
            return
        self._request.protocol.close()  # from here on it reads without parsing
        transport.write_eof()
        for _ in range(round(LINGER_S / _POLL_S)):
            if transport.is_closing():
                break
            await asyncio.sleep(_POLL_S)


def refused(request: BaseRequest, error: HttpProcessingError) -> web.Response:
    """The answer to a head that is none."""
    known = judged(error)
    request_id = secrets.token_hex(8)
    request[REQUEST_ID] = request_id
    log.info("api_unparsed", reason=known.reason, detail=known.detail, address=request.remote, request_id=request_id)
    return LastWord(known, request_id)


def judged(error: HttpProcessingError) -> ApiError:
    """`error` in our words."""
    if isinstance(error, LineTooLong) or error.message.startswith("Too many headers"):
        text = "the request's head is too large: a line may have 8190 bytes, and there may be 128 header fields"
        return ApiError(431, "head_too_large", text)
    if isinstance(error, BadHttpMethod) and (_TLS in error.line or "HTTPS" in error.message):
        return ApiError(400, "bad_request", "that is TLS, and this port speaks plain HTTP: ask for http://")
    return ApiError(400, "bad_request", "that is not an HTTP/1.1 request, or not a sound one")

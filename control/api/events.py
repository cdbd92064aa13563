"""/api/events: what changes, as it changes (server-sent events, WHATWG HTML section 9.2).

A reader that takes nothing is dropped rather than buffered for: its memory is bounded here and in the kernel.
"""

import asyncio
import socket
import time

from aiohttp import web

from control.api.bodies import Empty, NoQuery
from control.api.envelope import dress
from control.api.errors import ApiError
from control.api.gate import Principal
from control.api.streams import TooManyError
from control.api.table import Call, Table

HEARTBEAT_S = 15.0
STUCK_S = 30.0
KERNEL_BYTES = 32 * 1024
_BEAT = b": still here\n\n"
MEDIA = "text/event-stream"

table = Table("events")


@table.add("GET", "/api/events", "events", media=MEDIA)
async def events(call: Call[Empty, NoQuery]) -> web.StreamResponse:
    """What changes, as it changes: server-sent events

    Each has an `id`, an `event` (node, pool, user, token, scores, audit, epoch, gap) and `data`, a JSON object with at
    least `kind` and `at`. With Last-Event-ID the stream goes on after that event; `gap` says that events may have been
    missed, so read again what you need. A reader that is too slow is dropped.
    """
    last_id = call.request.headers.get("Last-Event-ID", "")[:64]
    streams = call.parts.streams
    try:
        stream = streams.open(call.who.name, last_id)
    except TooManyError:
        raise ApiError(503, "too_many_streams", "too many streams are open here", {"Retry-After": "5"}) from None
    if call.request.transport is not None:
        stream.cut = call.request.transport.abort
    try:
        response = await _begun(call.request)
        while (frames := await stream.next(HEARTBEAT_S)) is not None and not _over(call.who):
            stream.sending = True
            async with asyncio.timeout(STUCK_S):
                await response.write(frames or _BEAT)
            stream.sending = False
    except ConnectionError:
        pass
    except TimeoutError:
        stream.cut()
    finally:
        streams.shut(stream)
    return response


def _over(who: Principal) -> bool:
    """Whether the token that opened a stream has expired meanwhile."""
    return who.until is not None and time.time() >= who.until


async def _begun(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": MEDIA, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    dress(request, response)
    transport = request.transport
    if transport is not None:
        transport.set_write_buffer_limits(high=KERNEL_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    await response.prepare(request)
    await response.write(b"retry: 1000\n\n")
    return response

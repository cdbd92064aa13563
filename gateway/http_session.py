"""HTTP for one client: CONNECT (RFC 9110 section 9.3.6) and absolute-form requests with keep-alive (RFC 9112).

A refused request always ends the connection, so that nothing sent along with it can run (RFC 9931).
"""

import asyncio

from gateway.plain_http import PlainHttp
from gateway.session import ClientGoneError, Session
from gateway.wire import http_connect
from gateway.wire.base import WireError
from gateway.wire.http_head import Head, parse_head
from gateway.wire.http_reply import connect_response, error_response
from health.reasons import Reason

KEEP_ALIVE_S = 75.0


async def serve_http(session: Session) -> None:
    """Answer requests until one becomes a tunnel, is refused, or the client leaves."""
    plain = PlainHttp(session)
    head = None
    try:
        while True:
            head = await _read_head(session, first=not plain.used)
            if head.method == b"CONNECT":
                plain.close()
                await _connect(session, head)
                return
            if not await plain.exchange(head):
                return
    except ClientGoneError:
        if not plain.used:
            raise
    except WireError as error:
        await session.refuse(refusal(session, error, head))
        raise
    except TimeoutError:
        if plain.used and not session.data:
            return
        late = WireError(Reason.HANDSHAKE_TIMEOUT, "no complete request in time")
        await session.refuse(refusal(session, late, head))
        raise late from None
    finally:
        plain.close()


def refusal(session: Session, error: WireError, head: Head | None) -> bytes:
    """The error response for the client; without a body where `head` asked for none."""
    head_only = head is not None and head.method == b"HEAD"
    return error_response(error.reason, error.detail, [("X-Request-Id", session.conn_id)], head_only=head_only)


async def _read_head(session: Session, *, first: bool) -> Head:
    if not first and not session.data:
        async with asyncio.timeout(KEEP_ALIVE_S):
            await session.more()
    async with asyncio.timeout(session.worker.settings.handshake_timeout):
        scanned = 0
        while (head := parse_head(session.data, scanned)) is None:
            scanned = len(session.data)
            await session.more()
    return head


async def _connect(session: Session, head: Head) -> None:
    target = http_connect.connect_target(head)
    await session.identify(http_connect.credentials(head))
    dialled = await session.dial(target)
    try:
        session.data = session.data[head.consumed :]
        await session.channel.write(
            connect_response(
                [
                    ("X-Exit-Node", dialled.node.id),
                    ("X-Exit-Country", dialled.node.country),
                    ("X-Request-Id", session.conn_id),
                ]
            )
        )
    except BaseException:
        dialled.release()
        raise
    session.tunnel(dialled)

"""SOCKS5 for one client (RFC 1928, RFC 1929): exactly one reply, sent when the outcome is known."""

import asyncio
from ipaddress import ip_address

from gateway.session import Session
from gateway.wire import socks
from gateway.wire.base import WireError


async def serve_socks5(session: Session) -> None:
    """Handshake, dial, and start the tunnel. Raises WireError after the refusal was sent."""
    handshake = socks.Socks5Handshake(auth_required=session.must_authenticate)
    try:
        async with asyncio.timeout(session.worker.settings.handshake_timeout):
            request = await _shake_hands(session, handshake)
    except WireError as error:
        await session.refuse(error.reply)
        raise
    try:
        dialled = await session.dial(request.target)
    except WireError as error:
        await session.refuse(socks.error_reply(error.reason))
        raise
    try:
        host, port = dialled.channel.sock.getsockname()[:2]
        await session.channel.write(socks.reply(0, ip_address(host), port))
    except BaseException:
        dialled.release()
        raise
    session.data = handshake.leftover
    session.tunnel(dialled)


async def _shake_hands(session: Session, handshake: socks.Socks5Handshake) -> socks.Request:
    identified = False
    while True:
        event = handshake.next_event()
        if isinstance(event, socks.NeedData):
            if not session.data:
                await session.more()
            handshake.receive(session.data)
            session.data = b""
        elif isinstance(event, socks.Send):
            await session.channel.write(event.data)
        elif isinstance(event, socks.Credentials):
            try:
                await session.identify((event.username, event.password))
            except WireError as error:
                raise WireError(error.reason, error.detail, reply=handshake.auth_result(False)) from None
            identified = True
            await session.channel.write(handshake.auth_result(True))
        else:
            if not identified:
                try:
                    await session.identify(None)
                except WireError as error:
                    raise WireError(error.reason, error.detail, reply=socks.error_reply(error.reason)) from None
            return event

"""SOCKS for one client (RFC 1928, RFC 1929; the SOCKS4 and 4a memos).

Exactly one reply, sent when the outcome is known.
"""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

from gateway.dial import Dialled
from gateway.session import Session
from gateway.udp_session import serve_udp
from gateway.wire import socks, socks4
from gateway.wire.base import Target, WireError
from health.reasons import Reason


async def serve_socks5(session: Session) -> None:
    """Handshake, dial, and start the tunnel or carry datagrams. Raises WireError after the refusal was sent."""
    handshake = socks.Socks5Handshake(auth_required=session.must_authenticate)
    try:
        async with asyncio.timeout(session.worker.settings.handshake_timeout):
            request = await _shake_hands(session, handshake)
    except WireError as error:
        await session.refuse(error.reply)
        raise
    session.data = handshake.leftover
    if request.command is socks.Command.UDP_ASSOCIATE:
        await serve_udp(session, request.target)
        return
    await _connect(session, request.target, _granted, socks.error_reply)


async def serve_socks4(session: Session) -> None:
    """The same for SOCKS4 and 4a, CONNECT only."""
    handshake = socks4.Socks4Handshake(auth_required=session.must_authenticate)
    try:
        async with asyncio.timeout(session.worker.settings.handshake_timeout):
            request = await _read_request(session, handshake)
            await session.identify((request.user_id, ""))
    except WireError as error:
        await session.refuse(error.reply or socks4.REFUSED)
        raise
    session.data = handshake.leftover
    await _connect(session, request.target, lambda _: socks4.GRANTED, lambda _: socks4.REFUSED)


async def _connect(
    session: Session, target: Target, granted: Callable[[Dialled], bytes], refused: Callable[[Reason], bytes]
) -> None:
    try:
        dialled = await session.dial(target)
    except WireError as error:
        await session.refuse(refused(error.reason))
        raise
    try:
        await session.channel.write(granted(dialled))
    except BaseException:
        dialled.release()
        raise
    session.tunnel(dialled)


def _granted(dialled: Dialled) -> bytes:
    host, port = dialled.channel.sock.getsockname()[:2]
    return socks.reply(0, ip_address(host), port)


async def _shake_hands(session: Session, handshake: socks.Socks5Handshake) -> socks.Request:
    identified = False
    while True:
        event = handshake.next_event()
        if isinstance(event, socks.NeedData):
            await _feed(session, handshake)
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


async def _read_request(session: Session, handshake: socks4.Socks4Handshake) -> socks4.Request:
    while isinstance(event := handshake.next_event(), socks.NeedData):
        await _feed(session, handshake)
    return event


async def _feed(session: Session, handshake: socks.Socks5Handshake | socks4.Socks4Handshake) -> None:
    if not session.data:
        await session.more()
    handshake.receive(session.data)
    session.data = b""

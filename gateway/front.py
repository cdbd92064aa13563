"""The first bytes of a client: a PROXY header where its peer must send one, then whichever protocol it speaks."""

import asyncio

from gateway.http_session import serve_http
from gateway.session import Session
from gateway.socks_session import serve_socks4, serve_socks5
from gateway.wire import proxy_protocol
from gateway.wire.base import WireError
from gateway.wire.sniff import Kind, sniff
from health.reasons import Reason


async def serve(session: Session) -> None:
    """Speak with one client until its tunnel stands or it is refused. Raises WireError after a refusal."""
    settings = session.worker.settings
    async with asyncio.timeout(settings.handshake_timeout):
        if any(session.source in network for network in settings.trusted_proxies):
            await _read_proxy_header(session)
        session.worker.identifier.check_client(session.source)
        while (kind := sniff(session.data)) is None:
            await session.more()
    if kind is Kind.HTTP:
        await serve_http(session)
    elif kind is Kind.SOCKS5:
        await serve_socks5(session)
    elif kind is Kind.SOCKS4:
        await serve_socks4(session)
    elif kind in (Kind.PROXY_V1, Kind.PROXY_V2):
        raise WireError(Reason.PROXY_HEADER, "a PROXY header from a peer that is not trusted")
    else:
        raise WireError(Reason.BAD_REQUEST, "neither HTTP nor SOCKS")


async def _read_proxy_header(session: Session) -> None:
    while (parsed := proxy_protocol.parse(session.data)) is None:
        await session.more()
    header, used = parsed
    session.data = session.data[used:]
    if not header.local and header.source is not None and header.destination is not None:
        session.source, session.destination = header.source[0], header.destination
        session.authority = header.authority

"""WebSockets: through CONNECT, through SOCKS, and as an upgrade of a plain request to the proxy."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest
from websockets.exceptions import InvalidProxyStatus
from websockets.sync.client import ClientConnection, connect

from tests.clients.world import NODES, SITE, World

PLAIN, TLS = f"ws://{SITE}:8080/ws", f"wss://{SITE}/ws"


@contextmanager
def opened(world: World, url: str, proxy: str) -> Iterator[ClientConnection]:
    tls = ssl.create_default_context(cafile=world.ca) if url == TLS else None
    with connect(url, proxy=proxy, ssl=tls, open_timeout=30) as ws:
        yield ws


@pytest.mark.parametrize("url", [PLAIN, TLS])
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_through_a_tunnel(world: World, scheme: str, url: str) -> None:
    with opened(world, url, world.url(scheme, "jp")) as ws:
        assert ws.recv(20) == NODES["jp"]
        for text in ("hello", "x" * 300_000):
            ws.send(text)
            assert ws.recv(20) == text


def test_with_a_wrong_password(world: World) -> None:
    with (
        pytest.raises(InvalidProxyStatus, match="407"),
        opened(world, TLS, world.url("http", "jp", world.refusing, "wrong")),
    ):
        pass


async def test_as_an_upgrade_of_a_plain_request(world: World) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(PLAIN, proxy=world.url("http", "de"), timeout=aiohttp.ClientWSTimeout(ws_close=5)) as ws,
    ):
        assert await ws.receive_str(timeout=20) == NODES["de"]
        for text in ("hello", "x" * 300_000):
            await ws.send_str(text)
            assert await ws.receive_str(timeout=20) == text

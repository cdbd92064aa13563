"""What is done for open tunnels now and then."""

import asyncio
import socket
from base64 import b64encode
from collections.abc import AsyncIterator

import pytest

from gateway import sweep as module
from gateway.sweep import KEEPALIVE, Sweep
from tests.gateway.inside import PASSWORD, Client, Inside, echoing, user

PERIOD_S = 0.05


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD_S", PERIOD_S)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with echoing() as made:
        yield made


def connect(port: int, login: str = "") -> bytes:
    field = b"\r\nProxy-Authorization: Basic " + b64encode(login.encode()) if login else b""
    return b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: a%b\r\n\r\n" % (port, field)


async def tunnel(inside: Inside, port: int, login: str = "") -> Client:
    client = inside.connect()
    await client.send(connect(port, login))
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    return client


async def talk_for_ever(client: Client, data: bytes) -> None:
    """Until the tunnel ends, which is an error."""
    while True:
        await client.send(data)
        await client.until(b"z")
        await asyncio.sleep(0.01)


async def test_both_sockets_notice_a_peer_that_vanished(port: int) -> None:
    async with Inside() as inside:
        sweep = Sweep(inside.worker)
        await tunnel(inside, port)
        open_tunnel = inside.session.tunnel_of
        assert open_tunnel is not None
        await inside.until(lambda: open_tunnel.seen_at)
        for sock in (open_tunnel.up.source, open_tunnel.down.source):
            got = [sock.getsockopt(level, option) for level, option, _ in KEEPALIVE]
            assert got == [value for _, _, value in KEEPALIVE]
        sweep.close()
        await inside.nothing_left()


async def test_a_tunnel_in_which_nothing_passes_is_closed_in_order(port: int) -> None:
    async with Inside(idle_timeout=0.3) as inside:
        sweep = Sweep(inside.worker)
        idle, busy = await tunnel(inside, port), await tunnel(inside, port)
        for _ in range(12):
            await busy.send(b"x")
            assert await busy.some() == b"x"
            await asyncio.sleep(PERIOD_S)
        assert await idle.rest() == b""
        assert inside.reasons == ["idle_timeout"]
        await busy.send(b"y")
        assert await busy.some() == b"y"
        sweep.close()
        await inside.nothing_left()


async def test_no_tunnel_lives_for_ever(port: int) -> None:
    async with Inside(max_lifetime=0.4) as inside:
        sweep = Sweep(inside.worker)
        client = await tunnel(inside, port)
        with pytest.raises((AssertionError, ConnectionError)):
            await talk_for_ever(client, b"z")
        assert inside.reasons == ["lifetime"]
        sweep.close()
        await inside.nothing_left()


async def test_who_used_up_the_month_is_cut_and_told_so_next_time(port: int) -> None:
    async with Inside(user(monthly_bytes=6_400_000), require_auth=True) as inside:
        sweep = Sweep(inside.worker)
        login = f"alice:{PASSWORD}"
        client = await tunnel(inside, port, login)
        with pytest.raises((AssertionError, ConnectionError)):
            await talk_for_ever(client, b"x" * 20_000 + b"z")
        assert inside.reasons == ["quota_used"]
        assert inside.log[0]["user"] == "alice"
        again = inside.connect()
        await again.send(connect(port, login))
        told = await again.rest()
        assert told.startswith(b"HTTP/1.1 4")
        assert b"used up" in told
        sweep.close()
        await inside.nothing_left()


async def test_bytes_are_counted_once(port: int) -> None:
    """Some of them while the tunnel stands, the rest at its end."""
    async with Inside(user(monthly_bytes=1 << 40), require_auth=True) as inside:
        sweep = Sweep(inside.worker)
        client = await tunnel(inside, port, f"alice:{PASSWORD}")
        grant = inside.session.grant
        assert grant is not None
        volume = grant._account.volume
        await client.send(b"x" * 1000)
        await client.until(b"x" * 1000)
        await inside.until(lambda: volume.used >= 2000, "counted while it stands")
        await client.send(b"x" * 500)
        await client.until(b"x" * 500)
        client.finish()
        assert await client.rest() == b""
        await inside.until(lambda: not inside.worker.sessions)
        assert volume.used == 3000
        assert (inside.log[0]["bytes_in"], inside.log[0]["bytes_out"]) == (1500, 1500)
        sweep.close()


async def test_many_are_looked_at_in_turns(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    async with Inside() as inside:
        clients = [await tunnel(inside, port) for _ in range(8)]
        sweep = Sweep(inside.worker)
        tunnels = [session.tunnel_of for session in inside.worker.sessions]
        await inside.until(lambda: all(one is not None and one.seen_at for one in tunnels))
        assert all(client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 for client in clients)
        sweep.close()
        await asyncio.sleep(2 * PERIOD_S)
        await inside.nothing_left()

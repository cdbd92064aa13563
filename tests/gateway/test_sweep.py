"""What is done for open tunnels now and then."""

import asyncio
import contextlib
import socket
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway import sweep as module
from gateway.session import Session
from gateway.sweep import KEEPALIVE, Sweep
from health.reasons import Reason
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
    async with Inside(idle_timeout=1.5) as inside:
        sweep = Sweep(inside.worker)
        idle, busy = await tunnel(inside, port), await tunnel(inside, port)
        for _ in range(1000):
            await busy.send(b"x")
            assert await busy.some() == b"x"
            await asyncio.sleep(PERIOD_S)
            if inside.reasons:
                break
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


@asynccontextmanager
async def pouring() -> AsyncIterator[int]:
    """An HTTP origin that answers GET without end, and takes a POST's body without an answer; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    writer.write(b"x" * 20_000)
                    await writer.drain()
                    await asyncio.sleep(0.001)
            while await reader.read(65536):
                pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_plain_request_that_goes_on_and_on_is_cut_when_the_month_is_used_up(method: str) -> None:
    async with pouring() as origin, Inside(user(monthly_bytes=6_400_000), require_auth=True) as inside:
        sweep = Sweep(inside.worker)
        login = b64encode(f"alice:{PASSWORD}".encode())
        target, length = b"127.0.0.1:%d" % origin, b"Content-Length: 100000000\r\n" if method == "POST" else b""
        client = inside.connect()
        head = b"%b http://%b/ HTTP/1.1\r\nHost: %b\r\n%bProxy-Authorization: Basic %b\r\n\r\n"
        await client.send(head % (method.encode(), target, target, length, login))
        with contextlib.suppress(ConnectionError):
            if method == "POST":
                for _ in range(5000):
                    await client.send(b"x" * 20_000)
            assert b" 403 " in (await client.rest())[:20] or method == "GET"
        await inside.until(lambda: inside.reasons == ["quota_used"])
        assert sum(inside.log[0][name] for name in ("bytes_in", "bytes_out")) < 100_000_000
        sweep.close()
        await inside.nothing_left()


async def test_what_was_counted_on_the_way_is_not_counted_again_at_the_end(port: int) -> None:
    """A plain exchange, as the sweep sees it."""

    class Passing:
        passed = 700
        reason: Reason | None = None

        def end(self, reason: Reason) -> None:
            self.reason = reason

    async with Inside(user(monthly_bytes=1 << 40), require_auth=True) as inside:
        sweep = Sweep(inside.worker)
        await tunnel(inside, port, f"alice:{PASSWORD}")
        session, passing = inside.session, Passing()
        grant, standing = session.grant, session.tunnel_of
        assert grant is not None
        volume = grant._account.volume
        session._tunnel, session.traffic = None, passing
        await inside.until(lambda: volume.used == 700)
        passing.passed = 900
        await inside.until(lambda: volume.used == 900)
        assert passing.reason is None
        session.record(Reason.OK, up=400, down=600)
        assert volume.used == 1000
        volume.exhausted = True
        await inside.until(lambda: passing.reason is Reason.QUOTA_USED)
        session._tunnel, session.traffic = standing, None

        sweep.close()


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


async def test_a_connection_that_cannot_be_looked_at_keeps_no_other_from_it(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Inside() as inside:
        await tunnel(inside, port)
        broken = inside.session.conn_id
        settle = Session.settle

        def breaking(session: Session, passed: int) -> None:
            if session.conn_id == broken:
                raise RuntimeError("as a mistake of ours would")
            settle(session, passed)

        monkeypatch.setattr(Session, "settle", breaking)
        sweep = Sweep(inside.worker)
        await asyncio.sleep(3 * PERIOD_S)
        await tunnel(inside, port)
        (new,) = (session for session in inside.worker.sessions if session.conn_id != broken)
        await inside.until(lambda: new.tunnel_of is not None and new.tunnel_of.seen_at)
        sweep.close()

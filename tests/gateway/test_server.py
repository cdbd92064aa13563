"""A real worker that is told to end: what it lets go at once, what it waits for, and for how long."""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from gateway import server
from tests.conftest import STALL_S
from tests.gateway.harness import Gateway
from tests.gateway.raw_origin import Origin, client_of, direct_gateway
from tests.gateway.stub_fleet import StubFleet, node

JP = node("jp000001")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Start = Callable[..., AbstractContextManager[Gateway]]


@pytest.fixture
def start(_redis_binary: str, tmp_path: Path) -> Start:
    return partial(direct_gateway, tmp_path, _redis_binary)


async def ended(gateway: Gateway, within: float) -> None:
    await asyncio.to_thread(gateway.process.wait, within)


async def test_kept_connections_do_not_hold_the_end_up(start: Start) -> None:
    with start(drain_timeout=60) as gateway:
        async with Origin() as origin, client_of(gateway) as idle, client_of(gateway) as busy:
            ends = []
            for client in (idle, busy):
                await client.send(origin.request())
                ends.append(await origin.accepted())
                await ends[-1].head()
                await ends[-1].send(ANSWER)
                assert b"close" not in (await client.head()).lower()
                await client.exactly(2)
            await busy.send(origin.request())
            await ends[1].head()
            gateway.process.send_signal(signal.SIGTERM)
            assert await idle.rest() == b""
            assert gateway.process.poll() is None, "somebody still waits for an answer"
            await ends[1].send(ANSWER)
            last = await busy.rest()
            assert last.endswith(b"ok")
            assert b"\r\nconnection: close\r\n" in last.lower()
            await ended(gateway, 30)
        assert [line["reason"] for line in gateway.lines()] == ["ok"] * 3


async def test_tunnels_have_until_the_deadline(start: Start) -> None:
    patience = 3.0
    with start(drain_timeout=patience) as gateway:
        async with Origin() as origin, client_of(gateway) as short, client_of(gateway) as long:
            ends = []
            for client in (short, long):
                await client.send(b"CONNECT %b HTTP/1.1\r\nHost: a\r\n\r\n" % origin.host)
                await client.head()
                ends.append(await origin.accepted())
            began = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            for client, end in zip((short, long), ends, strict=True):
                await client.send(b"up")
                assert await end.exactly(2) == b"up"
                await end.send(b"down")
                assert await client.exactly(4) == b"down"
            short.finish()
            ends[0].finish()
            assert await short.rest() == b""
            try:
                assert not await long.rest()
            except ConnectionResetError:
                pass
            assert patience * 0.9 < time.monotonic() - began < patience * 2 + STALL_S
            await ended(gateway, 30)
        assert [line["reason"] for line in gateway.lines()] == ["ok", "shutdown"]


async def test_where_others_have_the_clients_it_waits_for_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LINKS_WITHIN_S", 60.0)
    fleet = StubFleet(JP)
    fleet.link(JP.id).up = False
    waiting = asyncio.create_task(server._know_the_fleet(fleet, None))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    fleet.link(JP.id).up = True
    await asyncio.wait_for(waiting, 20)


async def test_alone_it_soon_tells_clients_that_there_is_no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LINKS_WITHIN_S", 60.0)
    fleet = StubFleet(JP)
    fleet.link(JP.id).up = False
    await asyncio.wait_for(server._know_the_fleet(fleet, 0.05), 20)

"""Connections: bounded in number, in silence, and in what they leave in the log."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
import uvloop
from aiohttp import web

from control.api import listener, reading
from control.api.context import PARTS, Parts
from control.api.metrics import Metrics
from control.api.server import application
from tests.control.api.conftest import ADMIN, PASSWORD, context

HEALTH = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.asynccontextmanager
async def connected(port: int, host: str = "") -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0) if host else None)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(15):
        try:
            return not await reader.read(1)
        except ConnectionError:
            return True


async def ask(port: int, text: str, host: str = "", whole: bool = False) -> bytes:
    async with connected(port, host) as (reader, writer), asyncio.timeout(15):
        writer.write(text.encode("latin-1"))
        return await (reader.read() if whole else reader.readuntil(b"\r\n\r\n"))


async def test_a_silent_connection_is_closed_and_a_speaking_one_is_not(
    fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "FIRST_REQUEST_S", 1.0)
    async with (
        listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port,
        connected(port) as (silent, _),
        connected(port) as (dripping, drip),
        connected(port) as (good, says),
    ):
        drip.write(b"GET /api/health HT")
        for _ in range(2):
            says.write(HEALTH)
            assert b" 200 OK" in await good.readuntil(b"\r\n\r\n")
            assert await closed(silent)
            assert await closed(dripping)
            await good.readuntil(b"}")


async def test_a_connection_that_asks_no_more_is_closed(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "KEEP_ALIVE_S", 0.5)
    async with (
        listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port,
        connected(port) as (idle, asks),
        connected(port) as (dripping, drip),
    ):
        for writer, reader in ((asks, idle), (drip, dripping)):
            writer.write(HEALTH)
            await reader.readuntil(b"}")
        drip.write(b"GET /api/health HT")
        assert await closed(idle)
        assert await closed(dripping)


async def test_a_body_that_does_not_come_is_not_waited_for(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BODY_S", 0.2)
    fields = {"Host": "x", **ADMIN, "Content-Type": "application/json", "Content-Length": "9"}
    lines = ["PUT /api/pools/jp HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port:
        assert (await ask(port, "\r\n".join(lines))).startswith(b"HTTP/1.1 408 ")


async def test_one_connection_too_many_is_told_so_and_closed(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 4)
    async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port:
        async with connected(port) as one, connected(port) as two:
            for reader, writer in (one, two):
                writer.write(HEALTH)
                await reader.readuntil(b"\r\n\r\n")
            head, body = await refusal(port, HEALTH)
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in head
            assert body["reason"] == "too_many_connections"
            assert body["detail"].startswith("your address has 2 connections to this API")
            assert b" 200 OK" in await ask(port, HEALTH.decode(), "127.0.0.2"), "another address still finds room"
        async with asyncio.timeout(15):
            while not await answers(port):
                await asyncio.sleep(0.01)


async def test_a_flood_from_one_address_leaves_room_for_another(fleet: Any) -> None:
    async with (
        listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(listener.MOST_CONNECTIONS // 2 + 50):
            await stack.enter_async_context(connected(port))
        assert b" 200 OK" in await ask(port, HEALTH.decode(), "127.0.0.2")
        assert (await refusal(port, HEALTH))[1]["reason"] == "too_many_connections"


def test_it_is_the_same_on_the_loop_that_runs_in_earnest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 2)
    app = web.Application()
    app[PARTS] = cast("Parts", SimpleNamespace(metrics=Metrics()))

    async def run() -> None:
        async with listener.serving(app, "127.0.0.1", 0) as port:
            async with connected(port):
                for _ in range(3):
                    assert (await refusal(port, HEALTH))[1]["reason"] == "too_many_connections"
            async with asyncio.timeout(15):
                while b"HTTP/1.1 404 " not in await ask(port, HEALTH.decode()):
                    await asyncio.sleep(0.01)
            assert (await refusal(port, b"GET / HTTP/1.1\r\nX: " + b"x" * 500_000))[1]["status"] == 431

    uvloop.run(run())


async def refusal(port: int, sent: bytes) -> tuple[bytes, dict[str, Any]]:
    """Head and body of an answer after which the connection is closed."""
    async with connected(port) as (reader, writer), asyncio.timeout(10):
        writer.write(sent)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return head, json.loads(body)


async def answers(port: int) -> bool:
    try:
        return b" 200 OK" in await ask(port, HEALTH.decode())
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        ("GET /api/nodes HTTP/1.1\r\nHost: x\r\nAuthorization: {secret}\x00\r\n\r\n", 400, "bad_request"),
        ("GET /api/nodes HTTP/1.1\r\nHost: x\r\nAuthorization {secret}\r\n\r\n", 400, "bad_request"),
        ("GET {secret} \r\n\r\n", 400, "bad_request"),
        ("{secret}\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/9.9\r\nX: {secret}\r\n\r\n", 400, "bad_request"),
        ("\x16\x03\x01 {secret}\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nAuthorization: {secret}{long}\r\n\r\n", 431, "head_too_large"),
        ("GET /{long} HTTP/1.1\r\n\r\n", 431, "head_too_large"),
        ("GET / HTTP/1.1\r\n" + "X: {secret}\r\n" * 200 + "\r\n", 431, "head_too_large"),
        ("GET / HTTP/1.1\r\nX: " + "{long}" * 400, 431, "head_too_large"),
    ],
)
async def test_what_is_no_request_is_refused_like_every_other(
    fleet: Any, caplog: pytest.LogCaptureFixture, sent: str, status: int, reason: str
) -> None:
    secret = ADMIN["Authorization"]
    given = sent.replace("{secret}", secret).replace("{long}", "x" * 10_000).encode("latin-1")
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as logs:
        async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port:
            head, body = await refusal(port, given)
            metrics = await ask(port, f"GET /metrics HTTP/1.0\r\nAuthorization: {secret}\r\n\r\n", whole=True)
    assert f'operation="none",status="{status}"}} 1.0'.encode() in metrics
    assert head.startswith(f"HTTP/1.0 {status} ".encode())
    assert b"Content-Type: application/json" in head
    assert (body["status"], body["reason"]) == (status, reason)
    (line,) = [line for line in logs if line["event"] == "api_unparsed"]
    assert f"X-Request-Id: {line['request_id']}".encode() in head
    assert secret not in caplog.text + str(logs) + str(body)
    assert "Traceback" not in caplog.text


async def test_tls_on_a_plain_port_is_told_so(fleet: Any) -> None:
    hello = b"\x16\x03\x01\x00\xf1\x01\x00\x00\xed\x03\x03" + bytes(40) + b"\r\n"
    async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port:
        assert (await refusal(port, hello))[1]["detail"] == (
            "that is TLS, and this port speaks plain HTTP: ask for http://"
        )


async def test_a_taken_address_is_an_oserror(fleet: Any) -> None:
    async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port:
        with pytest.raises(OSError, match="in use"):
            async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", port):
                pass


async def test_a_client_that_leaves_before_its_body_is_whole_is_no_internal_error(fleet: Any) -> None:
    who = f"Authorization: {ADMIN['Authorization']}"
    head = f"PUT /api/pools/jp HTTP/1.1\r\nHost: x\r\n{who}\r\nExpect: 100-continue\r\n"
    async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port:
        with structlog.testing.capture_logs() as logs:
            async with connected(port) as (reader, writer), asyncio.timeout(15):
                writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n".encode())
                assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
                writer.write(b"{")
            async with asyncio.timeout(15):
                while not (told := [line for line in logs if line["event"] == "audit"]):
                    await asyncio.sleep(0.01)
    assert told[0]["outcome"] == "bad_request"
    assert not [line for line in logs if line["event"] == "api_error"]

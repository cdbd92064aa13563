"""Connections: bounded in number, in silence, and in what they leave in the log."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from control.api import bodies, listener
from control.api.server import application
from tests.control.api.conftest import ADMIN, PASSWORD, context

HEALTH = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(5):
        return not await reader.read(1)


async def ask(port: int, text: str) -> bytes:
    async with connected(port) as (reader, writer), asyncio.timeout(5):
        writer.write(text.encode("latin-1"))
        return await reader.readuntil(b"\r\n\r\n")


async def test_a_silent_connection_is_closed_and_a_speaking_one_is_not(
    fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "FIRST_REQUEST_S", 0.2)
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
    monkeypatch.setattr(listener, "KEEP_ALIVE_S", 0.2)
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
    monkeypatch.setattr(bodies, "BODY_S", 0.2)
    fields = {"Host": "x", **ADMIN, "Content-Type": "application/json", "Content-Length": "9"}
    lines = ["PUT /api/pools/jp HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port:
        assert (await ask(port, "\r\n".join(lines))).startswith(b"HTTP/1.1 408 ")


async def test_one_connection_too_many_is_closed_at_once(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 2)
    async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port:
        async with connected(port) as one, connected(port) as two:
            for reader, writer in (one, two):
                writer.write(HEALTH)
                await reader.readuntil(b"\r\n\r\n")
            async with connected(port) as (extra, _):
                assert await closed(extra)
        async with asyncio.timeout(5):
            while not await answers(port):
                await asyncio.sleep(0.01)


async def answers(port: int) -> bool:
    try:
        return b" 200 OK" in await ask(port, HEALTH.decode())
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


async def test_bytes_that_are_no_http_are_not_logged(fleet: Any, caplog: pytest.LogCaptureFixture) -> None:
    secret = ADMIN["Authorization"]
    with caplog.at_level(logging.DEBUG):
        async with listener.serving(application(context(fleet), PASSWORD), "127.0.0.1", 0) as port:
            head = "GET /api/nodes HTTP/1.1\r\nHost: x\r\n"
            assert b" 400 " in await ask(port, f"{head}Authorization: {secret}\x00\r\n\r\n")
            assert b" 400 " in await ask(port, f"{head}Authorization {secret}\r\n\r\n")
            assert b" 400 " in await ask(port, "\x16\x03\x01 hello\r\n\r\n")
    assert secret not in caplog.text
    assert "Traceback" not in caplog.text


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
            async with connected(port) as (reader, writer), asyncio.timeout(5):
                writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n".encode())
                assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
                writer.write(b"{")
            async with asyncio.timeout(5):
                while not (told := [line for line in logs if line["event"] == "audit"]):
                    await asyncio.sleep(0.01)
    assert told[0]["outcome"] == "bad_request"
    assert not [line for line in logs if line["event"] == "api_error"]

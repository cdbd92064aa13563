"""/api/events over a real connection: what comes, what comes again, and who is let go."""

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest

from control.api import events
from control.api.context import PARTS
from control.api.streams import Streams
from health.config import RedisSettings
from health.registry import Registry
from tests.control.api.conftest import ADMIN, Client, NewApi


class Reader:
    """One stream of events."""

    def __init__(self, response: Any) -> None:
        self._response = response

    async def line(self) -> str:
        async with asyncio.timeout(15):
            return str((await self._response.content.readline()).decode())

    async def next(self, kind: str = "") -> dict[str, str]:
        """The next event, of `kind` if that is given."""
        fields: dict[str, str] = {}
        while True:
            line = await self.line()
            assert line, "the stream ended"
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "event" in fields and kind in ("", fields["event"]):
                return fields
            else:
                fields = {}

    async def ended(self) -> bool:
        while await self.line():
            pass
        return True


async def listen(api: Any, **headers: str) -> Reader:
    response = await api.get("/api/events", headers=headers)
    assert response.status == 200, await response.text()
    assert response.content_type == "text/event-stream"
    reader = Reader(response)
    assert await reader.line() == "retry: 1000\n"
    return reader


async def test_a_change_is_told_as_it_happens(api: Any, ask: Client) -> None:
    reader = await listen(api)
    await ask("PUT", "/api/pools/jp", json={"max": 3}, headers={"X-Request-Id": "abc"})
    pool = await reader.next("pool")
    assert json.loads(pool["data"])["subject"] == "jp"
    audit = json.loads((await reader.next("audit"))["data"])
    assert (audit["who"], audit["what"], audit["subject"], audit["outcome"], audit["request_id"]) == (
        *("admin", "pool.change", "jp", "done"),
        "abc",
    )
    assert "mark" not in audit
    await ask("PUT", "/api/pools/jp", 409, json={"max": 3, "version": 7})
    assert json.loads((await reader.next("audit"))["data"])["outcome"] == "stale_version"


async def test_after_a_broken_connection_nothing_is_missed(api: Any, ask: Client) -> None:
    reader = await listen(api)
    await ask("PUT", "/api/pools/jp", json={"max": 3})
    last = (await reader.next("audit"))["id"]
    await ask("PUT", "/api/pools/us", json={"max": 3})
    again = await listen(api, **{"Last-Event-ID": last})
    assert json.loads((await again.next())["data"])["subject"] == "us"
    elsewhere = await listen(api, **{"Last-Event-ID": "00000000-5"})
    assert (await elsewhere.next())["event"] == "gap"


async def test_silence_is_filled(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    reader = await listen(api)
    for _ in range(2):
        while await reader.line() != ": still here\n":  # within 5 s each
            pass


async def test_there_are_only_so_many_streams(fleet: Any, new_api: NewApi) -> None:
    await fleet.registry.begin_epoch()
    api = await new_api(fleet)
    assert api.app is not None
    vars_of = api.app[PARTS].streams
    assert isinstance(vars_of, Streams)
    vars_of._most = 2
    readers = [await listen(api), await listen(api)]
    refused = await api.get("/api/events")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    assert (await refused.json())["reason"] == "too_many_streams"
    readers[0]._response.close()

    async def again() -> bool:
        response = await api.get("/api/events")
        return bool(response.status == 200)

    async with asyncio.timeout(15):
        while not await again():
            await fleet.registry.publish("pool", "jp")
            await asyncio.sleep(0.01)


async def test_a_stream_ends_with_its_token(ask: Client, fleet: Any, new_api: NewApi) -> None:
    token = await ask("POST", "/api/tokens", 201, json={"name": "ci"})
    reader = await listen(await new_api(fleet, {"Authorization": f"Bearer {token['token']}"}))
    await ask("DELETE", f"/api/tokens/{token['id']}")
    assert await reader.ended()


async def test_a_stream_ends_when_the_api_is_stopped(api: Any) -> None:
    reader = await listen(api)
    closing = asyncio.create_task(api.server.close())
    assert await reader.ended()
    await asyncio.wait_for(closing, 15)


async def test_a_reader_that_takes_nothing_is_dropped(api: Any, parts: Any, registry: Registry) -> None:
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(reader, ("127.0.0.1", api.port))
        head = f"GET /api/events HTTP/1.1\r\nHost: x\r\nAuthorization: {ADMIN['Authorization']}\r\n\r\n"
        await loop.sock_sendall(reader, head.encode())
        good = await listen(api)
        async with asyncio.timeout(15):
            while len(parts.streams) < 2:
                await asyncio.sleep(0.01)
        taking = asyncio.create_task(good.ended())
        async with asyncio.timeout(20):
            while not parts.streams.dropped:
                await registry.publish("node", "jp000001", reason="r" * 4000)
        assert len(parts.streams) == 1
        assert not taking.done()
        taking.cancel()
        async with asyncio.timeout(15):
            await _read_to_the_end(reader)


async def _read_to_the_end(reader: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while await asyncio.get_running_loop().sock_recv(reader, 65536):
            pass


async def test_without_redis_the_stream_says_so_and_goes_on(
    redis_server: Any, new_control: Any, new_api: NewApi
) -> None:

    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    control = new_control(registry)
    try:
        await registry.begin_epoch()
        api = await new_api(control)
        assert api.app is not None
        async with asyncio.timeout(15):
            while not api.app[PARTS].feed.alive:  # what was never subscribed cannot be lost
                await asyncio.sleep(0.01)
        reader = await listen(api)
        redis_server.stop()
        assert (await reader.next("gap"))["event"] == "gap"
        redis_server.start()
        await registry.begin_epoch()
        async with asyncio.timeout(15):
            while (await reader.next())["event"] != "pool":
                await registry.publish("pool", "jp")
    finally:
        await control.close()
        await registry.close()

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from deploy.lab.inside import whoami


@pytest.fixture
async def client() -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(whoami.application())) as client:
        yield client


async def test_the_callers_address_is_the_answer(client: TestClient[Any, Any]) -> None:
    answer = await client.get("/")
    assert await answer.text() == "127.0.0.1\n"
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_what_arrived_is_told(client: TestClient[Any, Any]) -> None:
    seen = await (await client.get("/json?a=b", headers={"X-Test": "yes"})).json()
    assert (seen["ip"], seen["local"], seen["scheme"]) == ("127.0.0.1", "127.0.0.1", "http")
    assert (seen["method"], seen["target"]) == ("GET", "/json?a=b")
    assert ["X-Test", "yes"] in seen["headers"]


async def test_echo_gives_the_body_back(client: TestClient[Any, Any]) -> None:
    body = bytes(range(256)) * 4096
    assert await (await client.post("/echo", data=body)).read() == body


async def test_bytes_are_counted_and_bounded(client: TestClient[Any, Any]) -> None:
    assert await (await client.get("/bytes?n=100000")).read() == bytes(100_000)
    assert await (await client.get("/bytes?n=0")).read() == b""
    for query in ("", "?n=-1", "?n=x", f"?n={whoami.MAX_BYTES + 1}", "?n=nan"):
        assert (await client.get("/bytes" + query)).status == 400, query


async def test_a_body_is_taken_and_counted(client: TestClient[Any, Any]) -> None:
    answer = await client.post("/sink", data=io.BytesIO(bytes(3_000_000)))
    assert (answer.status, await answer.text()) == (200, "3000000\n")
    assert (await client.get("/sink")).status == 405


async def test_slow_answers_late(client: TestClient[Any, Any]) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await client.get("/slow?seconds=0.2")).status == 200
    assert loop.time() - began >= 0.2
    assert (await client.get("/slow?seconds=301")).status == 400


async def test_tcp_echo_ends_after_its_caller() -> None:
    server = await asyncio.start_server(whoami.tcp_echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    writer.write(b"two")
    writer.write_eof()
    assert await reader.read() == b"two"
    writer.close()
    server.close()
    await server.wait_closed()


async def test_a_datagram_is_answered_with_its_senders_address() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(whoami.Datagrams, local_addr=("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.3", 0))
        sock.setblocking(False)
        await loop.sock_sendto(sock, b"who", transport.get_extra_info("sockname"))
        assert await asyncio.wait_for(loop.sock_recv(sock, 100), 5) == b"127.0.0.3"
    transport.close()

"""The HTTP listener that Prometheus and HAProxy ask."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.resources import listening_socket
from health import monitor as module
from health.monitor import Monitor


class Asked:
    """A monitor, and whether it is ready."""

    def __init__(self) -> None:
        self.ready = True
        self.monitor = Monitor(lambda: self.ready, self.show, listening_socket)

    async def show(self) -> bytes:
        return b"number 1\n"

    async def send(self, request: bytes, *, end: bool = False) -> bytes:
        host, _, port = self.monitor.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        if end:
            writer.write_eof()
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
async def asked(unused_tcp_port: int) -> AsyncIterator[Asked]:
    made = Asked()
    await made.monitor.listen(f"127.0.0.1:{unused_tcp_port}")
    yield made
    made.monitor.close()


async def test_ready_and_not(asked: Asked) -> None:
    assert (await asked.send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    asked.ready = False
    assert (await asked.send(b"GET /ready HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 503 ")


async def test_metrics_have_a_length_and_a_type(asked: Asked) -> None:
    answer = await asked.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"number 1\n"
    assert b"content-length: 9" in head.lower()
    assert b"content-type: text/plain; version=" in head.lower()
    head_only = await asked.send(b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    assert head_only.partition(b"\r\n\r\n")[2] == b""


async def test_a_request_in_pieces_is_one(asked: Asked) -> None:
    host, _, port = asked.monitor.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for byte in b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n":
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.parametrize(
    ("request_head", "status"),
    [(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"404"), (b"POST /ready HTTP/1.1\r\nHost: a\r\n\r\n", b"405")],
)
async def test_anything_else_is_refused(asked: Asked, request_head: bytes, status: bytes) -> None:
    assert (await asked.send(request_head)).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01" * 100 + b"\r\n\r\n", b"GET /ready HTTP/1.1\r\n" + b"a" * 70_000, b"GET"]
)
async def test_garbage_is_closed(asked: Asked, garbage: bytes) -> None:
    assert await asked.send(garbage, end=True) == b""
    assert (await asked.send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_silent_client_is_closed(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REQUEST_WITHIN_S", 0.1)
    assert await asked.send(b"GET /re") == b""


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (b"", b"401"),
        (b"Authorization: Bearer wrong\r\n", b"401"),
        (b"Authorization: Bearer \r\n", b"401"),
        (b"Authorization: Bearer s3cret-\xff\r\n", b"401"),
        (b"Authorization: Basic s3cret-token\r\n", b"401"),
        (b"Authorization: bearer s3cret-token\r\n", b"200"),
    ],
)
async def test_a_token_is_asked_for_metrics_alone(asked: Asked, field: bytes, status: bytes) -> None:
    asked.monitor.token = "s3cret-token"
    answer = await asked.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert (b"number 1" in answer) == (status == b"200")
    assert (b"www-authenticate: bearer" in answer.lower()) == (status == b"401")
    assert (await asked.send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_it_can_move(asked: Asked, unused_tcp_port_factory: object) -> None:
    first = asked.monitor.address
    await asked.monitor.listen(first)  # the same: nothing happens
    await asked.monitor.listen(f"127.0.0.1:{unused_tcp_port_factory()}")  # type: ignore[operator]
    assert (await asked.send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    host, _, port = first.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))

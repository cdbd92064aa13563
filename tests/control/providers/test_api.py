"""GET and JSON: whatever an API does ends in an answer or in plain words, and soon."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from control.providers import ProviderError, api
from control.providers.api import Api, StatusError, retry_after

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers every path by `handler`; counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.handler: Handler = self.fine
        self.url = ""

    async def fine(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"fine": True})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return await self.handler(request)


@pytest.fixture
async def server(aiohttp_server: Any) -> Server:
    found = Server()
    app = web.Application()
    app.router.add_get("/{path:.*}", found.answer)
    found.url = str((await aiohttp_server(app)).make_url("")).rstrip("/")
    return found


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def asking(server: Server, clock: Clock) -> AsyncIterator[Api]:
    found = Api(server.url, 1.0, clock, lambda: 0.0)
    yield found
    await found.close()


def answering(status: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type=kind, headers=headers)

    return handler


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def test_its_name_is_looked_up_without_a_thread(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer would keep a thread of the executor that files are read in for half a minute."""

    def blocking(*_: Any, **__: Any) -> Any:
        raise AssertionError("a blocking look-up")

    monkeypatch.setattr(socket, "getaddrinfo", blocking)
    named = Api(server.url.replace("127.0.0.1", "localhost"), 5.0)
    try:
        assert await named.get("/x") == {"fine": True}
    finally:
        await named.close()


async def test_what_it_answers_comes_back(asking: Api) -> None:
    assert await asking.get("/x") == {"fine": True}


async def test_who_asks_too_often_waits_as_long_as_it_is_told(asking: Api, server: Server, clock: Clock) -> None:
    server.handler = answering(429, **{"Retry-After": "120"})
    with pytest.raises(StatusError, match=r"/x answered 429 \(asked too often\): nothing is asked for 120 s"):
        await asking.get("/x")
    server.handler = server.fine
    clock.now += 119
    with pytest.raises(ProviderError, match=r"/x answered 429 \(asked too often\); asked again in 1 s"):
        await asking.get("/other")
    assert server.asked == ["/x"]
    clock.now += 1
    assert await asking.get("/other") == {"fine": True}


async def test_a_server_that_is_out_for_a_while_may_say_so(asking: Api, server: Server, clock: Clock) -> None:
    server.handler = answering(503, **{"Retry-After": "5"})
    with pytest.raises(StatusError, match="503"):
        await asking.get("/x")
    with pytest.raises(ProviderError, match="asked again in 5 s"):
        await asking.get("/x")
    server.handler = answering(503)
    clock.now += 5
    for _ in range(2):
        with pytest.raises(StatusError, match=r"/x answered 503$"):
            await asking.get("/x")


async def test_a_path_that_does_not_answer_is_left_alone_for_a_while(asking: Api, server: Server, clock: Clock) -> None:
    server.handler = silent
    began = time.monotonic()
    with pytest.raises(ProviderError, match="/x did not answer in time"):
        await asking.get("/x")
    assert time.monotonic() - began < 5
    server.handler = server.fine
    with pytest.raises(ProviderError, match="/x did not answer in time; asked again in 30 s"):
        await asking.get("/x")
    assert await asking.get("/y") == {"fine": True}
    clock.now += api.SILENT_S
    assert await asking.get("/x") == {"fine": True}


async def test_a_dripping_answer_ends_too(asking: Api, server: Server) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    server.handler = drip
    with pytest.raises(ProviderError, match="did not answer in time"):
        await asking.get("/x")


async def test_nobody_there(clock: Clock, unused_tcp_port: int) -> None:
    asking = Api(f"http://127.0.0.1:{unused_tcp_port}", 5.0, clock)
    with pytest.raises(ProviderError, match=r"/x failed: .*onnect"):
        await asking.get("/x")
    with pytest.raises(ProviderError, match="asked again in 5 s"):
        await asking.get("/y")
    await asking.close()


async def test_a_web_page_and_other_things_are_no_answer(asking: Api, server: Server) -> None:
    server.handler = answering(200, b"<html>log in to this hotspot</html>", "text/html")
    with pytest.raises(ProviderError, match="/x answered a web page that is not JSON"):
        await asking.get("/x")
    server.handler = answering(200, b'{"half": ')
    with pytest.raises(ProviderError, match="/x answered something that is not JSON"):
        await asking.get("/x")
    server.handler = answering(302, b"", Location="http://198.18.0.1/")
    with pytest.raises(StatusError, match="/x answered 302"):
        await asking.get("/x")


async def test_a_login_is_not_part_of_an_error(asking: Api, server: Server) -> None:
    server.handler = answering(401, b"no")
    with pytest.raises(StatusError) as caught:
        await asking.get("/x", login=("token", "hidden-token"))
    assert caught.value.status == 401
    assert "hidden" not in str(caught.value)


async def test_a_large_answer_is_read_off_the_loop_and_an_endless_one_refused(
    asking: Api, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.handler = answering(200, b"[" + b"1," * 200_000 + b"1]")
    assert len(await asking.get("/x")) == 200_001
    monkeypatch.setattr(api, "MAX_ANSWER", 100_000)
    with pytest.raises(ProviderError, match="answered more than 100000 bytes"):
        await asking.get("/x")


@pytest.mark.parametrize(
    "raw", [b"", b"\x00\xff\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"SSH-2.0\r\n"]
)
async def test_what_is_not_http_is_told(raw: bytes, clock: Clock) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET)
    asking = Api(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", 5.0, clock)
    with pytest.raises(ProviderError, match="/x "):
        await asking.get("/x")
    await asking.close()
    listener.close()
    await listener.wait_closed()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 60),
        ("0", 1),
        ("30", 30),
        ("99999999", 3600),
        ("9" * 5000, 60),
        ("-5", 60),
        ("soon", 60),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 100),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str | None, seconds: float) -> None:
    assert retry_after(text, 0.0) == seconds


@given(st.text(max_size=60), st.floats(0, 4e9))
def test_any_retry_after_is_between_a_second_and_an_hour(text: str, now: float) -> None:
    assert 1 <= retry_after(text, now) <= 3600


JSONLIKE = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b'"a"', b":", b",", b"1e999", b"NaN", b"\\ud800", b"9" * 99])
)


@given(st.binary(max_size=60) | JSONLIKE.map(b"".join))
def test_any_bytes_are_a_value_or_refused(body: bytes) -> None:
    async def read() -> Any:
        try:
            return await api._decode(body, "/x", "text/html")
        except ProviderError as error:
            return error

    found = asyncio.run(read())
    if isinstance(found, ProviderError):
        assert str(found) == "/x answered a web page that is not JSON"
    else:
        assert found == json.loads(body) or b"NaN" in body

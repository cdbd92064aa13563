"""One plain HTTP exchange through a real gateway: bodies both ways, interim and early answers, upgrades, cuts.

The judge is what the origin received, and what the client then reads.
"""

import asyncio
import socket
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from argon2 import PasswordHasher
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from gateway import http_exchange
from health.model import User
from tests.gateway.harness import Gateway, wait_for
from tests.gateway.inside import Inside
from tests.gateway.raw_origin import EXIT, End, Origin, client_of, direct_gateway, fields_of

VIA = b"Via: 1.1 vpnexit\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HELLO = b"HTTP/1.1 200 OK\r\n" + VIA + EXIT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", b"Sec-WebSocket-Version: 13")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, _redis_binary: str) -> Iterator[Gateway]:
    with direct_gateway(tmp_path_factory.mktemp("exchange"), _redis_binary) as running:
        yield running


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as listening:
        yield listening


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[End]:
    async with client_of(gateway) as end:
        yield end


async def ask(client: End, origin: Origin, *fields: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> End:
    """Send a request's head; returns the origin's end, the head read."""
    await client.send(origin.request(*fields, method=method, version=version))
    end = await origin.accepted()
    await end.head()
    return end


async def goes_on(client: End, origin: Origin, end: End) -> None:
    """The client's connection, and the origin's, are good for another exchange."""
    await client.send(origin.request(path=b"/again"))
    assert (await end.head()).startswith(b"GET /again")
    await end.send(OK)
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK")
    assert await client.exactly(2) == b"ok"


# Bodies


async def test_a_chunked_upload_with_trailers(client: End, origin: Origin) -> None:
    end = await ask(client, origin, b"Transfer-Encoding: chunked", b"Trailer: X-Sum", method=b"POST")
    assert b"Transfer-Encoding: chunked\r\n" in end.received
    await client.send(b"5;ext=1\r\nhel")
    assert await end.exactly(8) == b"3\r\nhel\r\n"  # what came goes on at once
    await client.send(b"lo\r\n0\r\nX-Sum: 1\r\nContent-Length: 7\r\nProxy-X: 1\r\nHost: evil\r\n\r\n")
    assert await end.head() == b"2\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n"
    await end.send(OK)
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert await client.exactly(2) == b"ok"
    await goes_on(client, origin, end)


async def test_a_chunked_answer_with_trailers(client: End, origin: Origin) -> None:
    end = await ask(client, origin)
    await end.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n")
    assert await client.exactly(len(HELLO)) == HELLO
    await end.send(b"000\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nConnection: close\r\n\r\n")
    assert await client.head() == b"0\r\nX-Sum: 1\r\n\r\n"
    await goes_on(client, origin, end)


async def test_an_answer_until_close_goes_on_in_chunks(client: End, origin: Origin) -> None:
    end = await ask(client, origin)
    await end.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert await client.exactly(len(HELLO)) == HELLO
    await end.close()
    assert await client.exactly(5) == b"0\r\n\r\n"
    await goes_on(client, origin, await ask_again(client, origin))


async def ask_again(client: End, origin: Origin) -> End:
    end = await ask(client, origin)
    await end.send(OK)
    await client.head()
    await client.exactly(2)
    return end


async def test_an_http_1_0_origin(client: End, origin: Origin) -> None:
    end = await ask(client, origin)
    await end.send(b"HTTP/1.0 200 OK\r\n\r\nhello")
    assert await client.exactly(len(HELLO)) == HELLO.replace(b"Via: 1.1", b"Via: 1.0")
    await end.close()
    assert await client.exactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_an_http_1_0_client_gets_no_chunks(client: End, origin: Origin, answer: bytes) -> None:
    end = await ask(client, origin, b"Connection: keep-alive", version=b"1.0")
    await end.send(answer)
    await end.close()
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert body == b"hello"
    assert b"connection: close" in fields_of(head + b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()


async def test_an_http_1_0_client_without_a_host_field(client: End, origin: Origin) -> None:
    await client.send(b"GET %b/ HTTP/1.0\r\nUser-Agent: x\r\n\r\n" % origin.url)
    end = await origin.accepted()
    assert await end.head() == b"GET / HTTP/1.1\r\nHost: %b\r\nUser-Agent: x\r\nVia: 1.0 vpnexit\r\n\r\n" % origin.host


@pytest.mark.parametrize(
    ("method", "answer", "fields"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"Content-Length: 5000\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n", b"Content-Length: 5000\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"Content-Length: 0\r\n"),
    ],
)
async def test_answers_without_a_body(client: End, origin: Origin, method: bytes, answer: bytes, fields: bytes) -> None:
    end = await ask(client, origin, method=method)
    await end.send(answer)
    status = answer.partition(b"\r\n")[0] + b"\r\n"
    assert await client.head() == status + fields + VIA + EXIT + b"\r\n"
    await goes_on(client, origin, end)


async def test_an_upload_echoed_while_it_runs(client: End, origin: Origin) -> None:
    """Each direction pumps by itself: far more than any buffer holds, and the client reads last."""
    size = 24 << 20
    end = await ask(client, origin, b"Content-Length: %d" % size, method=b"POST")
    await end.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    block = bytes(range(256)) * 4096

    async def upload() -> None:
        for _ in range(size // len(block)):
            await client.send(block)

    async def echo() -> None:
        left = size
        while left:
            data = await end.some()
            end.received = b""
            left -= len(data)
            await end.send(data)

    async def download() -> None:
        await client.head()
        for _ in range(size // len(block)):
            assert await client.exactly(len(block)) == block
            client.received = b""

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for part in (upload, echo, download):
            group.create_task(part())


async def test_the_answer_arrives_whole_after_the_clients_fin(client: End, origin: Origin) -> None:
    end = await ask(client, origin, b"Content-Length: 3", method=b"POST")
    await client.send(b"abc")
    client.finish()
    assert await end.exactly(3) == b"abc"
    assert await end.silent()
    await end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"x" * 1_000_000


# Interim and early answers


async def test_expect_100_continue(client: End, origin: Origin) -> None:
    end = await ask(client, origin, b"Expect: 100-continue", b"Content-Length: 3", method=b"PUT")
    assert b"\r\nExpect: 100-continue\r\n" in end.received
    await end.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n" + VIA + b"\r\n"
    await client.send(b"abc")
    assert await end.exactly(3) == b"abc"
    await end.send(OK)
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n")
    assert await client.exactly(2) == b"ok"


async def test_expect_answered_finally(client: End, origin: Origin) -> None:
    end = await ask(client, origin, b"Expect: 100-continue", b"Content-Length: 3", method=b"PUT")
    await end.send(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno")
    async with asyncio.timeout(4):  # at once, without waiting for a body that will not come
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 417 No\r\n")
    assert answer.endswith(b"Connection: close\r\n\r\nno")
    with pytest.raises(asyncio.IncompleteReadError):
        await end.head()


async def test_a_body_that_does_not_wait_for_100(client: End, origin: Origin) -> None:
    end = await ask(client, origin, b"Expect: 100-continue", b"Content-Length: 3", method=b"PUT")
    await client.send(b"abc")
    assert await end.exactly(3) == b"abc"
    await end.send(OK)
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK")


async def test_http_1_0_knows_no_interim_answers(client: End, origin: Origin) -> None:
    end = await ask(client, origin, b"Expect: 100-continue", b"Content-Length: 3", method=b"PUT", version=b"1.0")
    assert b"expect" not in end.received.lower()
    await client.send(b"abc")
    assert await end.exactly(3) == b"abc"
    await end.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
    assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_early_hints(client: End, origin: Origin) -> None:
    end = await ask(client, origin)
    await end.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 2)
    for _ in range(2):
        assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n" + VIA + b"\r\n"
    await end.send(OK)
    assert (await client.head()).startswith(b"HTTP/1.1 200 OK")


async def test_an_early_answer_ends_the_upload_with_the_connection(client: End, origin: Origin) -> None:
    end = await ask(client, origin, b"Content-Length: 10000000", method=b"POST")
    await client.send(b"x" * 1000)
    await end.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
    await end.close()
    async with asyncio.timeout(4):
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.endswith(b"Connection: close\r\n\r\nno")


async def test_an_early_answer_by_an_origin_that_reads_on(client: End, origin: Origin) -> None:
    """It keeps its connection: it may want the rest, and gets it."""
    end = await ask(client, origin, b"Content-Length: 6", method=b"POST")
    await end.send(OK)
    assert b"Connection: close" in await client.head()
    assert await client.exactly(2) == b"ok"
    await client.send(b"abc")
    assert await end.exactly(3) == b"abc"
    await client.send(b"def")
    assert await end.exactly(3) == b"def"
    assert await client.rest() == b""


async def test_an_early_answer_and_a_client_that_falls_silent(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange, "EARLY_S", 0.5)
    async with Inside() as inside:
        client = inside.connect()
        await client.send(origin.request(b"Content-Length: 6", method=b"POST"))
        end = await origin.accepted()
        await end.head()
        began = time.monotonic()
        await end.send(OK)
        assert (await client.rest()).endswith(b"ok")  # closed after a while
        assert time.monotonic() - began > 0.4
        with pytest.raises(asyncio.IncompleteReadError):
            await end.exactly(6)
        await end.drop()
        await inside.nothing_left()


def send_on_and_read_late(gateway: Gateway, request: bytes, answered: threading.Event) -> bytes:
    """A client with a small window, which sends more of its body before it reads the answer."""
    received = b""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", gateway.port))
        sock.sendall(request)
        assert answered.wait(10)
        time.sleep(0.3)
        sock.sendall(bytes(1000))
        time.sleep(0.2)
        while chunk := sock.recv(65536):
            received += chunk
    return received


async def test_an_early_answer_arrives_whole_while_the_client_sends_on(gateway: Gateway, origin: Origin) -> None:
    answered = threading.Event()
    request = origin.request(b"Content-Length: 10000000", method=b"POST")
    reading = asyncio.create_task(asyncio.to_thread(send_on_and_read_late, gateway, request, answered))
    end = await origin.accepted()
    await end.head()
    await end.send(b"HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000))
    answered.set()
    head, _, body = (await reading).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401")
    assert body == bytes(300_000)


async def test_nothing_behind_an_unfinished_body_runs(client: End, origin: Origin) -> None:
    end = await ask(client, origin, b"Content-Length: 100000", method=b"POST")
    await end.send(b"HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    await client.head()
    await client.send(origin.request(path=b"/smuggled"))
    assert await client.rest() == b""
    assert origin.count == 1


# Cuts


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nx"]
)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_off_answer_is_cut_off(client: End, origin: Origin, framing: bytes, reset: bool) -> None:
    end = await ask(client, origin)
    await end.send(b"HTTP/1.1 200 OK\r\n" + framing)
    await client.head()
    if reset:
        end.reset()
    else:
        await end.close()
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_reset_until_close_is_cut_off(client: End, origin: Origin) -> None:
    end = await ask(client, origin)
    await end.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert await client.exactly(len(HELLO)) == HELLO
    end.reset()
    with pytest.raises(ConnectionResetError):
        await client.rest()


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_a_cut_off_upload_is_cut_off(client: End, origin: Origin, framing: bytes) -> None:
    """The origin must not take a part for the whole."""
    end = await ask(client, origin, framing, method=b"POST")
    await client.send(b"5\r\nhello\r\n")
    await end.some()
    client.finish()
    with pytest.raises(ConnectionResetError):
        await end.rest()


async def test_a_client_that_resets_while_it_waits_is_not_waited_for(
    gateway: Gateway, client: End, origin: Origin
) -> None:
    end = await ask(client, origin)
    client.reset()
    with pytest.raises(ConnectionResetError):
        await end.rest()  # within WAIT_S
    await asyncio.to_thread(wait_for, lambda: [line["reason"] for line in gateway.lines()[-1:]] == ["client_reset"])


# Upgrades


async def test_an_upgrade_becomes_a_tunnel(client: End, origin: Origin) -> None:
    """What came early on either side is delivered."""
    await client.send(origin.request(*WEBSOCKET) + b"early up")
    end = await origin.accepted()
    head = await end.head()
    assert head.endswith(VIA + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n" in head
    assert await end.silent()  # not before the origin agreed
    await end.send(SWITCHED + b"early down")
    assert await client.head() == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        + VIA
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        + EXIT
        + b"\r\n"
    )
    assert await client.exactly(10) == b"early down"
    assert await end.exactly(8) == b"early up"
    for _ in range(3):
        await client.send(b"ping")
        assert await end.exactly(4) == b"ping"
        await end.send(b"pong")
        assert await client.exactly(4) == b"pong"
    client.finish()
    assert await end.rest() == b""
    await end.send(b"last")
    await end.close()
    assert await client.rest() == b"last"


async def test_an_upgrade_on_a_kept_connection(client: End, origin: Origin) -> None:
    end = await ask_again(client, origin)
    await client.send(origin.request(*WEBSOCKET))
    await end.head()
    await end.send(SWITCHED)
    assert (await client.head()).startswith(b"HTTP/1.1 101")
    await client.send(b"up")
    assert await end.exactly(2) == b"up"


async def test_a_declined_upgrade_goes_on_as_http(client: End, origin: Origin) -> None:
    await client.send(origin.request(*WEBSOCKET))
    end = await origin.accepted()
    await end.head()
    await end.send(b"HTTP/1.1 401 No\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno")
    assert b"upgrade" not in (await client.head()).lower()
    assert await client.exactly(2) == b"no"
    await goes_on(client, origin, end)


async def test_nothing_behind_a_declined_upgrade_runs(client: End, origin: Origin) -> None:
    await client.send(origin.request(*WEBSOCKET) + origin.request(path=b"/smuggled"))
    end = await origin.accepted()
    await end.head()
    await end.send(OK)
    assert (await client.rest()).endswith(b"Connection: close\r\n\r\nok")
    assert await end.rest() == b""
    assert origin.count == 1


@pytest.mark.parametrize(
    "fields",
    [
        (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        (b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        (b"Connection: Upgrade", b"Upgrade: TLS/1.0"),
        (b"Connection: Upgrade", b"Upgrade: connect-udp"),
        (b"Upgrade: websocket",),  # not named by Connection
        (*WEBSOCKET, b"Content-Length: 3"),
    ],
)
async def test_other_upgrades_stay_here(client: End, origin: Origin, fields: tuple[bytes, ...]) -> None:
    await client.send(origin.request(*fields) + (b"abc" if b"Content-Length: 3" in fields else b""))
    end = await origin.accepted()
    head = (await end.head()).lower()
    assert b"upgrade" not in head
    assert b"http2-settings" not in head
    assert b"connection" not in head
    await end.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 502")


async def test_an_http_1_0_upgrade_stays_here(client: End, origin: Origin) -> None:
    end = await ask(client, origin, *WEBSOCKET, version=b"1.0")
    assert b"upgrade" not in end.received.lower()


async def test_a_switch_to_another_protocol_is_refused(client: End, origin: Origin) -> None:
    end = await ask(client, origin, *WEBSOCKET)
    await end.send(SWITCHED.replace(b"websocket", b"h2c"))
    assert (await client.rest()).startswith(b"HTTP/1.1 502")


MESSAGES = ("text", b"bytes" * 100_000)


async def echo(socket: ServerConnection) -> None:
    await socket.send("hello")
    async for message in socket:
        await socket.send(message)


async def test_a_real_websocket_through_connect(gateway: Gateway) -> None:
    async with serve(echo, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with connect(url, proxy=gateway.url) as socket:
            assert await socket.recv() == "hello"
            for message in MESSAGES:
                await socket.send(message)
                assert await socket.recv() == message


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_a_real_websocket_through_plain_http(gateway: Gateway, scheme: str) -> None:
    before = len(gateway.lines())
    async with serve(echo, "127.0.0.1", 0) as server, ClientSession() as session:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with session.ws_connect(url, proxy=gateway.url) as socket:
            assert await socket.receive_str() == "hello"
            await socket.send_str(MESSAGES[0])
            assert await socket.receive_str() == MESSAGES[0]
            await socket.send_bytes(MESSAGES[1])
            assert await socket.receive_bytes() == MESSAGES[1]

    def ended() -> list[object]:
        """How the one ended that carried all of it; that of the test before may end in the meantime."""
        size = len(MESSAGES[1])
        return [line["reason"] for line in gateway.lines()[before:] if int(str(line["bytes_in"])) > size]

    await asyncio.to_thread(wait_for, ended)
    assert ended() == ["ok"]


# Limits


@pytest.fixture
def limited(tmp_path: Path, _redis_binary: str) -> Iterator[Gateway]:
    hashed = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash("secret")
    slow = User(name="slow", password_hash=hashed, bytes_per_second=400_000)
    with direct_gateway(tmp_path, _redis_binary, slow, require_auth=True) as running:
        yield running


async def test_a_users_bandwidth_counts_for_plain_http(limited: Gateway, origin: Origin) -> None:
    body = bytes(800_000)
    length = b"Content-Length: %d" % len(body)
    fields = (length, b"Proxy-Authorization: Basic " + b64encode(b"slow:secret"))
    async with client_of(limited) as client:
        end = await ask(client, origin, *fields, method=b"POST")

        async def timed(sender: End, receiver: End, head: bytes = b"") -> float:
            started = asyncio.get_running_loop().time()
            await sender.send(head + body)
            if head:
                await receiver.head()
            assert await receiver.exactly(len(body)) == body
            return asyncio.get_running_loop().time() - started

        least = 0.8 * (len(body) / 400_000 - 0.25)  # a quarter of a second's worth may pass at once
        assert await timed(client, end) > least
        assert await timed(end, client, b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n") > least


# Time-outs


@pytest.fixture
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange, "WATCH_S", 0.05)


@pytest.mark.usefixtures("looked_at_often")
@pytest.mark.parametrize("fields", [(), (b"Content-Length: 9",)])
async def test_a_target_that_never_answers_is_not_waited_for_for_ever(
    origin: Origin, fields: tuple[bytes, ...]
) -> None:
    async with Inside(idle_timeout=0.3) as inside:
        client = inside.connect()
        await client.send(origin.request(*fields, method=b"POST" if fields else b"GET"))
        end = await origin.accepted()
        await end.head()
        assert (await client.rest()).startswith(b"HTTP/1.1 504 ")
        assert inside.reasons == ["idle_timeout"]
        with pytest.raises(ConnectionResetError):
            await end.rest()
        await inside.nothing_left()


@pytest.mark.usefixtures("looked_at_often")
async def test_an_answer_that_comes_to_rest_is_cut(origin: Origin) -> None:
    async with Inside(idle_timeout=0.3) as inside:
        client = inside.connect()
        await client.send(origin.request())
        await (await origin.accepted()).send(OK[:-1])
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert inside.reasons == ["idle_timeout"]
        await inside.nothing_left()


@pytest.mark.usefixtures("looked_at_often")
@pytest.mark.parametrize(
    ("settings", "reason"), [({"idle_timeout": 0.3}, "idle_timeout"), ({"max_lifetime": 0.3}, "lifetime")]
)
async def test_an_answer_that_nobody_reads_is_cut(origin: Origin, settings: dict[str, float], reason: str) -> None:
    async with Inside(**settings) as inside:
        client = inside.connect()
        await client.send(origin.request())
        end = await origin.accepted()
        pouring = asyncio.create_task(end.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1 << 26)))
        await inside.until(lambda: inside.reasons == [reason])
        with pytest.raises(ConnectionError):
            await pouring
        await inside.nothing_left()


@pytest.mark.usefixtures("looked_at_often")
async def test_what_goes_on_is_not_cut(origin: Origin) -> None:
    async with Inside(idle_timeout=1.5) as inside:
        client = inside.connect()
        await client.send(origin.request())
        end = await origin.accepted()
        await end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        await client.until(b"\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.2)
            await end.send(b"x")
            assert await client.some() == b"x"
        await inside.until(lambda: inside.reasons == ["ok"])

"""What a proxy gets wrong in HTTP, row by row against a real gateway. The judge is what the origin received."""

import asyncio
import contextlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy import ports
from tests.conftest import STALL_S
from tests.gateway.harness import Gateway
from tests.gateway.raw_origin import EXIT, End, Origin, client_of, direct_gateway, fields_of
from tests.haproxy.conftest import HAProxy, hang_up

HANDSHAKE_S = 2.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 1024
STATUS = re.compile(rb"HTTP/1\.1 [0-9]{3} ")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, _redis_binary: str) -> Iterator[Gateway]:
    with direct_gateway(tmp_path_factory.mktemp("hardening"), _redis_binary) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, _redis_binary: str) -> Iterator[Gateway]:
    with direct_gateway(tmp_path_factory.mktemp("hasty"), _redis_binary, handshake_timeout=HANDSHAKE_S) as running:
        yield running


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as listening:
        yield listening


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[End]:
    async with client_of(gateway) as end:
        yield end


def cpu_seconds(gateway: Gateway) -> float:
    ticks = Path(f"/proc/{gateway.worker}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


async def answer_of(client: End) -> bytes:
    """All that the gateway says, a reset at the end included."""
    with contextlib.suppress(ConnectionResetError):
        while await client.some():
            pass
    return client.received


async def refused(client: End, origin: Origin, request: bytes, *statuses: int) -> bytes:
    """Send `request` and a smuggled one: a clear answer, the connection closed, and nothing at the origin."""
    await client.send(request + origin.request(path=b"/smuggled"))
    answer = await answer_of(client)
    assert answer.startswith(tuple(b"HTTP/1.1 %d " % status for status in statuses)), (request[:200], answer[:200])
    assert len(STATUS.findall(answer)) == 1
    assert b"Connection: close\r\n" in answer
    assert b"Proxy-Status: vpnexit; error=" in answer
    assert origin.count == 0
    return answer


# Framing of requests

BAD_LENGTHS = [b"+3", b"-1", b"0x3", b"1_0", b"", b"3, 4", b"3 3", b"18446744073709551617"]
FRAMINGS = [
    ((b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    ((b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
    ((b"Transfer-Encoding: ,chunked",), 400),
    ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    ((b"Transfer-Encoding: xchunked",), 501),
    ((b"Transfer-Encoding: \x0bchunked",), 400),
    ((b"Transfer-Encoding: gzip, chunked",), 501),
    ((b"Transfer-Encoding: chunked, identity",), 501),
    ((b"Transfer-Encoding : chunked",), 400),
    ((b"Transfer-Encoding:",), 400),
    *(((b"Content-Length: " + value,), 400) for value in BAD_LENGTHS),
    ((b"Content-Length: 3", b"Content-Length: 4"), 400),
    ((b"Content-Length: 3", b"Content-Length: 3"), 400),
    ((b"X: a\rb",), 400),
    ((b"X: a\nb: c",), 400),
    ((b"X: a\x00b",), 400),
    ((b"X\x00: a",), 400),
    ((b"no colon",), 400),
    ((b": empty",), 400),
    ((b" X: leading",), 400),
    ((b"X: a", b"\tfolded"), 400),
    ((b"Host: evil.example",), 400),  # a second one
]


@pytest.mark.parametrize(("fields", "status"), FRAMINGS)
async def test_framing_that_could_be_read_in_two_ways(
    client: End, origin: Origin, fields: tuple[bytes, ...], status: int
) -> None:
    await refused(client, origin, origin.request(*fields, method=b"POST") + b"3\r\nabc\r\n0\r\n\r\n", status)


async def test_transfer_encoding_in_http_1_0(client: End, origin: Origin) -> None:
    request = origin.request(b"Transfer-Encoding: chunked", method=b"POST", version=b"1.0")
    await refused(client, origin, request + b"0\r\n\r\n", 400)


async def test_chunked_in_any_case_frames(client: End, origin: Origin) -> None:
    await client.send(origin.request(b"TRANSFER-encoding: ChUnKeD", method=b"POST") + b"3\r\nabc\r\n0\r\n\r\n")
    end = await origin.accepted()
    assert b"\r\nTRANSFER-encoding: chunked\r\n" in await end.head()
    assert await end.head() == b"3\r\nabc\r\n0\r\n\r\n"


CHUNKS = [
    b"0x3\r\nabc", b"+3\r\nabc", b"0_3\r\nabc", b"-1\r\nabc", b"1junk\r\na", b"7fffffffffffffff\r\nabc",
    b"ffffffffffffffff3\r\nabc", b"3\nabc", b"3\r\nabc\n", b"2\r\r;a\r\nab", b"3;\x00\r\nabc", b"3;a\rb\r\nabc",
    b"3\r\nabcd\r\n", b"3\r\nabXY", b" 3\r\nabc", b"\r\n3\r\nabc", b";a\r\nabc", b"0\r\nX: a\n\r\n\r\n",
    b"0\r\nno colon\r\n\r\n", b"3;" + b"a" * 70_000 + b"\r\nabc", b"0\r\nX: " + b"a" * 70_000,
]  # fmt: skip


@pytest.mark.parametrize("chunk", CHUNKS)
async def test_the_origin_is_cut_before_an_invalid_byte_of_a_body(client: End, origin: Origin, chunk: bytes) -> None:
    await client.send(origin.request(b"Transfer-Encoding: chunked", method=b"POST") + b"2\r\nok\r\n")
    end = await origin.accepted()
    await end.head()
    assert await end.exactly(7) == b"2\r\nok\r\n"
    await client.send(chunk + b"\r\n0\r\n\r\n" + origin.request(path=b"/smuggled"))
    with pytest.raises(ConnectionResetError):
        await end.rest()
    valid = end.received.partition(b"2\r\nok\r\n")[2]
    assert valid in (b"", b"3\r\nabc\r\n"), valid  # never the last chunk
    answer = await answer_of(client)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert origin.count == 1


@pytest.mark.parametrize("chunk", CHUNKS)
async def test_a_body_that_begins_invalid_is_not_sent(client: End, origin: Origin, chunk: bytes) -> None:
    await client.send(
        origin.request(b"Transfer-Encoding: chunked", method=b"POST") + chunk + b"\r\n0\r\n\r\n" + origin.request()
    )
    answer = await answer_of(client)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert len(STATUS.findall(answer)) == 1
    assert b"GET" not in await received_by(origin)


async def received_by(origin: Origin) -> bytes:
    """Everything that one connection of the origin got until it was cut, if there was one."""
    if origin.count == 0:
        return b""
    end = await origin.accepted()
    return await answer_of(end)


# Targets and Host


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/1.1", 400),
        (b"OPTIONS * HTTP/1.1", 400),
        (b"GET ftp://%b/ HTTP/1.1", 400),
        (b"GET gopher://%b/ HTTP/1.1", 400),
        (b"GET file:///etc/passwd HTTP/1.1", 400),
        (b"GET https://%b/ HTTP/1.1", 501),
        (b"GET wss://%b/ HTTP/1.1", 501),
        (b"GET http://user:secret@%b/ HTTP/1.1", 400),
        (b"GET http://%b/#x HTTP/1.1", 400),
        (b"GET http:/// HTTP/1.1", 400),
        (b"GET http://%b/ HTTP/9.9", 501),
        (b"GET http://%b/ HTTP/2.0", 501),
        (b"GET http://%b/", 400),
        (b"PRI * HTTP/2.0", 501),
    ],
)
async def test_what_is_no_plain_http_request(client: End, origin: Origin, line: bytes, status: int) -> None:
    line = line.replace(b"%b", origin.host)
    answer = await refused(client, origin, line + b"\r\nHost: " + origin.host + b"\r\n\r\n", status)
    assert b"secret" not in answer


async def test_a_request_without_host(client: End, origin: Origin) -> None:
    await refused(client, origin, b"GET %b/ HTTP/1.1\r\nX: a\r\n\r\n" % origin.url, 400)


async def test_a_host_that_differs_is_rewritten_to_the_target(client: End, origin: Origin) -> None:
    await client.send(b"GET %b/ HTTP/1.1\r\nHost: internal.example\r\n\r\n" % origin.url)
    head = await (await origin.accepted()).head()
    assert head == b"GET / HTTP/1.1\r\nHost: %b\r\nVia: 1.1 vpnexit\r\n\r\n" % origin.host


@pytest.mark.parametrize(
    "authority",
    [
        b"127.0.0.1", b"127.0.0.1:", b"127.0.0.1:0", b"127.0.0.1:-1", b"127.0.0.1:https", b"127.0.0.1:%(wrapped)d",
        b"127.0.0.1:0%(port)d", b"user@127.0.0.1:%(port)d", b"127.0.0.1:%(port)d/", b"http://127.0.0.1:%(port)d",
        b":%(port)d", b"[[::1]]:%(port)d", b"[localhost]:%(port)d", b"127.1:%(port)d", b"2130706433:%(port)d",
        b"0x7f.0.0.1:%(port)d", b"127.0.0.1:%(port)d:%(port)d", b"127.0.0.1%%00:%(port)d",
    ],
)  # fmt: skip
async def test_connect_authorities(client: End, origin: Origin, authority: bytes) -> None:
    target = authority % {b"port": origin.port, b"wrapped": 65536 + origin.port}
    await refused(client, origin, b"CONNECT " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400)


async def test_connect_with_what_was_sent_along(client: End, origin: Origin) -> None:
    await client.send(b"CONNECT %b HTTP/1.1\r\nHost: a\r\n\r\npayload" % origin.host)
    assert await (await origin.accepted()).exactly(7) == b"payload"
    fields = fields_of(await client.head())
    assert not [line for line in fields if line.startswith((b"content-length", b"transfer-encoding"))]


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"CONNECT 10.9.9.9:80 HTTP/1.1\r\nHost: a\r\n\r\n", 403),
        (b"CONNECT 127.0.0.1:%(closed)d HTTP/1.1\r\nHost: a\r\n\r\n", 502),
        (b"CONNECT 127.0.0.1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 400),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic dS1jb3VudHJ5LWdiOng=\r\n\r\n", 503),
        (b"GET http://10.9.9.9/ HTTP/1.1\r\nHost: a\r\n\r\n", 403),
        (b"GET http://127.0.0.1:%(closed)d/ HTTP/1.1\r\nHost: a\r\n\r\n", 502),
    ],
)
async def test_nothing_behind_a_refused_request_runs(
    client: End, origin: Origin, request_head: bytes, status: int
) -> None:
    await refused(client, origin, request_head % {b"closed": ports.free()}, status)


# Fields


async def test_fields_that_concern_one_hop_stay_here(client: End, origin: Origin) -> None:
    await client.send(
        origin.request(
            b"Connection: X-Hop, close, Host, Authorization, Content-Length",
            b"X-Hop: 1",
            b"Keep-Alive: 5",
            b"TE: trailers",
            b"Upgrade: h2c",
            b"Proxy-Connection: keep-alive",
            b"Proxy: http://evil.example",
            b"Proxy-Anything: 1",
            b"Authorization: Basic YTpi",
            b"Content-Length: 0",
            b"X-Stays: 1",
        )
    )
    assert fields_of(await (await origin.accepted()).head()) == [
        b"host: " + origin.host,
        b"authorization: basic ytpi",
        b"content-length: 0",
        b"x-stays: 1",
        b"via: 1.1 vpnexit",
    ]


async def test_fields_of_an_answer_that_concern_one_hop_stay_here(client: End, origin: Origin) -> None:
    await client.send(origin.request())
    await (await origin.accepted()).send(
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Authenticate: Basic\r\n"
        b"Upgrade: h2c\r\nX-Exit-Node: forged\r\nX-Request-Id: forged\r\n"
        b"Content-Length: 2\r\nContent-Length: 2\r\nSet-Cookie: a\r\n\r\nok"
    )
    assert await client.head() == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a\r\nVia: 1.1 vpnexit\r\n" + EXIT + b"\r\n"
    )


async def test_credentials_go_nowhere(gateway: Gateway, client: End, origin: Origin) -> None:
    login = b"Proxy-Authorization: Basic YWxpY2U6Z2VoZWltbmlz"  # alice:geheimnis
    await client.send(origin.request(login, path=b"/private-path"))
    end = await origin.accepted()
    head = await end.head()
    assert b"proxy-" not in head.lower()
    await end.send(OK)
    await client.head()
    await client.exactly(2)
    await client.send(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (ports.free(), login))
    page = await answer_of(client)
    written = gateway.log.read_bytes() + page + gateway.metrics().encode()
    for secret in (b"geheimnis", b"YWxpY2U6Z2VoZWltbmlz", b"private-path"):
        assert secret not in written


# Answers of the origin

BAD_ANSWERS = [
    b"ICY 200 OK\r\n\r\n",
    b"HTTP/1.1 99 Low\r\n\r\n",
    b"HTTP/1.1 2000 High\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"\x16\x03\x01\x00\x05hello",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    *(
        b"HTTP/1.1 200 OK\r\nContent-Length: " + value + b"\r\n\r\nabc"
        for value in (b"+3", b"-1", b"0x3", b"", b"2, 3")
    ),
    *(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"\r\n0\r\n\r\n"
        for chunk in (
            b"0x3\r\nabc",
            b"+3\r\nabc",
            b"0_3\r\nabc",
            b"3\nabc",
            b"2\r\r;a\r\nab",
            b"3\r\nabXYZ",
            b"1junk\r\na",
        )
    ),
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",  # unasked
    b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
async def test_a_malformed_answer_is_told_as_the_origins_fault(client: End, origin: Origin, answer: bytes) -> None:
    await client.send(origin.request() + origin.request(path=b"/behind"))
    end = await origin.accepted()
    await end.head()
    await end.send(answer)
    told = await answer_of(client)
    assert told.startswith(b"HTTP/1.1 502"), told[:200]
    assert b"error=http_protocol_error" in told
    assert len(STATUS.findall(told)) == 1
    assert origin.count == 1


@pytest.mark.parametrize("chunk", [b"0x3\r\nabc", b"+3\r\nabc", b"3\nabc", b"3\r\nabXYZ", b"ffffffffffffffffff\r\n"])
async def test_an_answer_that_turns_malformed_is_cut(client: End, origin: Origin, chunk: bytes) -> None:
    await client.send(origin.request())
    end = await origin.accepted()
    await end.head()
    await end.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    await client.head()
    assert await client.exactly(7) == b"2\r\nok\r\n"
    await end.send(chunk + b"\r\n0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert client.received.endswith(b"2\r\nok\r\n")


async def test_a_space_before_the_colon_of_an_answers_field(client: End, origin: Origin) -> None:
    """A proxy removes it (RFC 9112 section 5.1), and does not overlook what the field says."""
    await client.send(origin.request())
    await (await origin.accepted()).send(b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok")
    assert b"\r\nContent-Length: 2\r\n" in await client.head()
    assert await client.exactly(2) == b"ok"


# Size, time and memory


def pour(gateway: Gateway, data: bytes) -> bytes:
    """Send as much of `data` as is taken, and read the answer."""
    received = b""
    with gateway.connect() as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while chunk := sock.recv(65536):
                received += chunk
    return received


async def test_four_megabytes_of_fields(gateway: Gateway, origin: Origin) -> None:
    before = gateway.resident_kib()
    answer = await asyncio.to_thread(pour, gateway, origin.request()[:-2] + b"X: aaaaaaa\r\n" * 350_000)
    assert answer.startswith(b"HTTP/1.1 431")
    assert gateway.resident_kib() - before < 8 * MIB
    assert origin.count == 0


async def test_four_megabytes_of_fields_in_an_answer(gateway: Gateway, client: End, origin: Origin) -> None:
    before = gateway.resident_kib()
    await client.send(origin.request())
    end = await origin.accepted()
    with contextlib.suppress(OSError):
        await end.send(b"HTTP/1.1 200 OK\r\n" + b"X: aaaaaaa\r\n" * 350_000)
    assert (await answer_of(client)).startswith(b"HTTP/1.1 502")
    assert gateway.resident_kib() - before < 8 * MIB


TINY = 1_000_000
TINY_DOWN = 200_000
MICROSECONDS = 10.0  # a tiny chunk; h11 takes as much for reading alone


async def drained(end: End) -> int:
    total = 0
    while data := await end.some():
        total += len(data)
        end.received = b""
        if data.endswith(b"0\r\n\r\n"):
            break
    return total


async def test_a_million_tiny_chunks_up(gateway: Gateway, client: End, origin: Origin) -> None:
    await client.send(origin.request(b"Transfer-Encoding: chunked", method=b"POST"))
    end = await origin.accepted()
    await end.head()
    before, memory = cpu_seconds(gateway), gateway.resident_kib()
    reading = asyncio.create_task(drained(end))
    for _ in range(TINY // 10_000):
        await client.send(b"1\r\na\r\n" * 10_000)
    await client.send(b"0\r\n\r\n")
    assert await asyncio.wait_for(reading, 60) >= TINY
    assert cpu_seconds(gateway) - before < TINY * MICROSECONDS / 1e6
    assert gateway.resident_kib() - memory < 8 * MIB


async def test_many_tiny_chunks_down(gateway: Gateway, client: End, origin: Origin) -> None:
    await client.send(origin.request())
    end = await origin.accepted()
    await end.head()
    before, memory = cpu_seconds(gateway), gateway.resident_kib()
    reading = asyncio.create_task(drained(client))
    await end.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(TINY_DOWN // 10_000):
        await end.send(b"1\r\na\r\n" * 10_000)
    await end.send(b"0\r\n\r\n")
    assert await asyncio.wait_for(reading, 60) >= TINY_DOWN
    assert cpu_seconds(gateway) - before < TINY_DOWN * MICROSECONDS / 1e6
    assert gateway.resident_kib() - memory < 8 * MIB


@pytest.mark.parametrize("first", [b"", b"used"])
async def test_a_dripping_head_is_cut(hasty: Gateway, origin: Origin, first: bytes) -> None:
    """Also the head of a later request, whose client had been welcome."""
    async with client_of(hasty) as client:
        await drips(client, origin, first)


async def drips(client: End, origin: Origin, first: bytes) -> None:
    if first:
        await client.send(origin.request())
        await (await origin.accepted()).send(OK)
        await client.head()
        await client.exactly(2)

    async def drip() -> None:
        with contextlib.suppress(OSError):
            for byte in origin.request(b"X-Long: " + b"a" * 1000):
                await client.send(bytes((byte,)))
                await asyncio.sleep(0.05)

    started = asyncio.get_running_loop().time()
    dripping = asyncio.create_task(drip())
    client.received = b""
    answer = await answer_of(client)
    dripping.cancel()
    assert answer.startswith(b"HTTP/1.1 408")
    assert HANDSHAKE_S * 0.9 < asyncio.get_running_loop().time() - started < HANDSHAKE_S * 2 + STALL_S
    assert origin.count == len(first) // 4


async def test_a_client_that_stops_reading_holds_no_memory(gateway: Gateway, client: End, origin: Origin) -> None:
    await client.send(origin.request())
    end = await origin.accepted()
    await end.head()
    before = gateway.resident_kib()
    await end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    await stuffed(end)
    assert gateway.resident_kib() - before < 8 * MIB


async def test_an_origin_that_stops_reading_holds_no_memory(gateway: Gateway, client: End, origin: Origin) -> None:
    before = gateway.resident_kib()
    await client.send(origin.request(b"Content-Length: 1000000000", method=b"POST"))
    end = await origin.accepted()
    await end.head()
    await stuffed(client)
    assert gateway.resident_kib() - before < 8 * MIB


async def stuffed(end: End) -> None:
    """Send until nothing more is taken: the kernel's buffers are full, and ours stand still."""

    async def send() -> None:
        while True:
            await end.send(bytes(1 << 20))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send(), 1)


# Behind HAProxy a reset may arrive as a plain close: a cut must show in the framing


@pytest.fixture
async def haproxy(tmp_path: Path, _redis_binary: str) -> AsyncIterator[HAProxy]:
    with (
        direct_gateway(tmp_path, _redis_binary, trusted_proxies=["127.0.0.0/8"]) as gateway,
        tempfile.TemporaryDirectory(prefix="vx-haproxy-") as directory,
    ):
        gateway.ready_port = gateway.metrics_port  # type: ignore[attr-defined]
        haproxy = HAProxy(Path(directory), gateway)  # type: ignore[arg-type]
        try:
            haproxy.start()
            await haproxy.wait_for("UP")
            yield haproxy
        finally:
            await hang_up(haproxy.writers)
            haproxy.stop()


async def test_a_cut_shows_behind_haproxy(haproxy: HAProxy, origin: Origin) -> None:
    for framing in (
        b"\r\nhello",
        b"Content-Length: 10\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ):
        client = End(*await haproxy.dial(3128))
        await client.send(origin.request())
        end = await origin.accepted()
        await end.head()
        await end.send(b"HTTP/1.1 200 OK\r\n" + framing)
        head = await client.head()
        while b"hello" not in client.received:
            await client.some()
        end.reset()
        body = (await answer_of(client)).removeprefix(head)
        if b"Content-Length: 10" in head:
            assert body == b"hello"
        else:
            assert b"Transfer-Encoding: chunked" in head
            assert body == b"5\r\nhello\r\n"  # and no last chunk

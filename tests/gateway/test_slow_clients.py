"""Clients that drip, keep silent, never read or never stop: cut in time, and nobody else notices."""

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from health.registry import Registry
from tests.conftest import STALL_S
from tests.gateway.harness import Exit, Gateway, curl, serve, wait_for
from tests.gateway.test_bad_input import GET, ends, serves

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]

DEADLINE_S = 2
PAUSE_S = 0.2
HALF_OPEN = 10_000
FLAT_KIB = 16 * 1024
CONNECT = b"CONNECT origin.test:%d HTTP/1.1\r\nHost: a\r\n\r\n"
# What is sent at once, what is then sent byte by byte, how the answer begins.
DRIPPING = {
    "silent": (b"", b"", b""),
    "request line": (b"", b"GET http://origin.test/" + b"a" * 99, b"HTTP/1.1 408"),
    "header": (GET + b"X: ", b"x" * 99, b"HTTP/1.1 408"),
    "connect": (b"CONNECT origin", b".test" * 30, b"HTTP/1.1 408"),
    "no protocol yet": (b"", b"\r\n\r\n\0\r", b""),
    "a second request": (GET + b"\r\nGET ", b"http://origin.test/" + b"a" * 99, b"HTTP/1.1 200"),
    "socks5 greeting": (b"\x05\xff", b"\x00" * 254, b"\x05\xff"),
    "socks5 log-in": (b"\x05\x01\x02", b"\x01\xffu-country-jp" + b"x" * 99, b"\x05\x02\x01\x01"),
    "socks5 request": (b"\x05\x01\x00", b"\x05\x01\x00\x03\xff" + b"a" * 99, b"\x05\x00\x05\x01\x00\x01"),
    "socks4 user": (b"\x04\x01\x00\x50\x7f\x00\x00\x01", b"u" * 99, b"\x00\x5b"),
    "socks4a name": (b"\x04\x01\x00\x50\x00\x00\x00\x01u\0", b"n" * 99, b"\x00\x5b"),
    "tls": (b"", b"\x16", b""),
}


async def ready(registry: Registry, gateway: Gateway, exit_: Exit) -> None:
    await serve(registry, exit_)
    wait_for(lambda: curl("-x", gateway.url, "http://origin.test/").stdout == exit_.id + "\n", what="serving")


async def drip(gateway: Gateway, first: bytes, rest: bytes) -> tuple[bytes, float]:
    """What the gateway said, and after how many seconds it hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    started = time.monotonic()

    async def send() -> None:
        writer.write(first)
        for byte in rest:
            await asyncio.sleep(PAUSE_S)
            writer.write(bytes((byte,)))

    sending = asyncio.create_task(send())
    answer = b""
    try:
        async with asyncio.timeout(10 * DEADLINE_S):
            while data := await reader.read(65536):
                answer += data
    except ConnectionError:
        pass
    finally:
        sending.cancel()
        writer.transport.abort()
    return answer, time.monotonic() - started


async def test_dripping_clients_are_cut(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(handshake_timeout=DEADLINE_S), exits("jp000001")
    await ready(registry, gateway, jp)
    before = ends(gateway)
    outcomes = await asyncio.gather(*(drip(gateway, first, rest) for first, rest, _ in DRIPPING.values()))
    for (name, (_, _, expected)), (answer, seconds) in zip(DRIPPING.items(), outcomes, strict=True):
        assert DEADLINE_S * 0.9 < seconds < DEADLINE_S * 2 + STALL_S, (name, seconds)
        assert answer.startswith(expected) if expected else answer == b"", (name, answer)
        assert answer.count(b"408 Request Timeout\r\n") == (b"HTTP" in expected), (name, answer)
    wait_for(lambda: (ends(gateway) - before)["handshake_timeout"] >= len(DRIPPING), what="all counted")
    assert (ends(gateway) - before)["handshake_timeout"] == len(DRIPPING)
    assert "Traceback" not in gateway.log.read_text()


def deaf(gateway: Gateway, request: bytes) -> socket.socket:
    """A client that asks and never reads; its receive buffer is small, so that the gateway's fills."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", gateway.port))
        sock.sendall(request)
        stack.pop_all()
        return sock


async def test_clients_that_never_read(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    large = GET.replace(b"origin.test/ ", b"origin.test/bytes?20000000 ") + b"\r\n"
    endless = b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x13"
    with contextlib.ExitStack() as stack:
        for request in (large, CONNECT % 19, endless):
            for _ in range(10):
                stack.enter_context(deaf(gateway, request))
        await asyncio.sleep(1)
        filled = gateway.resident_kib()
        await asyncio.sleep(2)
        assert gateway.resident_kib() - filled < FLAT_KIB
        assert serves(gateway)
    assert "Traceback" not in gateway.log.read_text()


def test_a_pipeline_that_is_never_read_comes_to_rest(shared_gateway: Gateway) -> None:
    """Requests without end: the gateway stops reading them while nobody reads the answers."""
    gateway = shared_gateway
    requests = GET.replace(b"origin.test/ ", b"origin.test/bytes?10000 ") + b"\r\n"
    with deaf(gateway, b"") as client:
        client.settimeout(1.5)
        before = gateway.resident_kib()
        with pytest.raises(TimeoutError):
            client.sendall(requests * 300_000)  # 26 MB, more than all buffers on the way
        assert gateway.resident_kib() - before < FLAT_KIB
        assert serves(gateway)


def test_heads_without_end(shared_gateway: Gateway) -> None:
    """4 MB of header: refused after 64 KiB, with an answer that arrives, and nothing of it is kept."""
    gateway = shared_gateway
    before = ends(gateway)
    flood = b"X: " + b"a" * (4 * 2**20)
    for number in range(60):
        answer = b""
        with gateway.connect() as sock:
            try:
                sock.sendall(GET + flood)
            except (BrokenPipeError, ConnectionResetError):
                pass
            try:
                while data := sock.recv(65536):
                    answer += data
            except ConnectionResetError:
                pass
        # Who sends on and on may lose the answer to the reset, but is not waited for.
        assert not answer or answer.startswith(b"HTTP/1.1 431")
        if number == 10:
            settled = gateway.resident_kib()
    assert gateway.resident_kib() - settled < FLAT_KIB // 2
    wait_for(lambda: (ends(gateway) - before)["too_large"] == 60, what="all counted")


def test_a_refused_client_that_never_reads_is_let_go(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    wait_for(lambda: "vpnexit_gateway_open_connections 0.0" in gateway.metrics(), what="no connection")
    before, counted = gateway.descriptors(), ends(gateway)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(deaf(gateway, b"GET / HTTP/1.1\r\n\r\n"))
        wait_for(lambda: (ends(gateway) - counted)["bad_request"] >= 50, what="refused")
        wait_for(lambda: gateway.descriptors() < before + 20, 2 * 2 + STALL_S, "descriptors given back")


@pytest.fixture
def descriptors() -> Iterator[None]:
    """The test's own half of the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < HALF_OPEN + 500:
        pytest.fail(f"the hard limit of {hard} descriptors is too low for {HALF_OPEN} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * HALF_OPEN)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def half_open(gateway: Gateway, opened: list[socket.socket]) -> None:
    """Handshakes that begin and never end."""
    begun = (b"", b"GET http://origin.test/ HT", b"\x05", b"\x05\x02\x00", b"\x04\x01\x00", b"\x16", b"CONNECT ")
    for number in range(HALF_OPEN):
        opened.append(socket.create_connection(("127.0.0.1", gateway.port), timeout=30))
        with contextlib.suppress(ConnectionError):  # cut already
            opened[-1].sendall(begun[number % len(begun)])


def hung_up(opened: list[socket.socket]) -> None:
    """Wait until the gateway has closed all of them."""
    for sock in opened:
        try:
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass


async def test_ten_thousand_half_open_handshakes(
    descriptors: None, exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    """Good clients are served meanwhile, all the others are cut in time, and what they cost comes back."""
    gateway, jp = gateways(handshake_timeout=DEADLINE_S), exits("jp000001")
    await ready(registry, gateway, jp)
    empty, grown = gateway.descriptors(), 0
    for _ in range(2):
        before = ends(gateway)
        opened: list[socket.socket] = []
        try:
            await asyncio.to_thread(half_open, gateway, opened)
            limit = 4 * DEADLINE_S + STALL_S
            served = await asyncio.to_thread(curl, "-x", gateway.url, "http://origin.test/", timeout=limit)
            assert served.stdout == "jp000001\n", served.stderr
            started = time.monotonic()
            await asyncio.to_thread(hung_up, opened)
            # Those beyond the gateway's limit wait to be accepted until the first are cut.
            assert time.monotonic() - started < 2 * 2 * DEADLINE_S + STALL_S
        finally:
            for sock in opened:
                sock.close()
        wait_for(lambda: gateway.descriptors() < empty + 20, what="descriptors given back")
        wait_for(lambda b=before: (ends(gateway) - b)["handshake_timeout"] >= HALF_OPEN, what="all counted")
        assert (ends(gateway) - before)["handshake_timeout"] == HALF_OPEN
        grown, last = gateway.resident_kib(), grown
    assert grown - last < FLAT_KIB, "the second wave needed more memory than the first"
    assert "Traceback" not in gateway.log.read_text()

"""The first bytes of a client: whose PROXY header counts, who may come at all, and what a header says."""

import asyncio
import re
import struct
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from gateway import worker as worker_module
from gateway.wire.sniff import PROXY_V2_SIGNATURE
from gateway.worker import PROXY_HEADER_S
from tests.conftest import STALL_S
from tests.gateway.inside import Inside, echoing, user
from tests.gateway.stub_fleet import node
from tests.gateway.test_session import connect, socks4, socks5

PROXY = "192.0.2.9"
TRUSTING = {"trusted_proxies": [f"{PROXY}/32"], "domain": "example.org"}
# Said beyond loopback, where a password is asked for.
ASKED = b"HTTP/1.1 407"


def v2(
    source: str = "127.0.0.1", to: str = "127.0.0.1", port: int = 3128, *, command: int = 1, **values: bytes
) -> bytes:
    """A PROXY v2 header. `values`: authority and unique_id."""
    body = ip_address(source).packed + ip_address(to).packed + struct.pack("!HH", 5555, port)
    for kind, name in ((2, "authority"), (5, "unique_id")):
        if name in values:
            body += struct.pack("!BH", kind, len(values[name])) + values[name]
    return PROXY_V2_SIGNATURE + bytes((0x20 | command, 0x11)) + struct.pack("!H", len(body)) + body


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with echoing() as made:
        yield made


@pytest.fixture
async def inside(port: int) -> AsyncIterator[Inside]:
    """It trusts a proxy in front."""
    async with Inside(node("jp000001", kind="direct"), **TRUSTING) as made:
        yield made
        await made.nothing_left()


async def head_of(inside: Inside, sent: bytes, source: str = PROXY) -> bytes:
    client = inside.connect(source)
    await client.send(sent)
    head = b""
    while b"\r\n\r\n" not in head:
        head += await client.some()
    client.sock.close()
    return head


async def test_a_header_says_who_and_where(inside: Inside, port: int) -> None:
    for header in (v2(), b"PROXY TCP4 127.0.0.1 127.0.0.1 5555 3128\r\n"):
        client = inside.connect(PROXY)
        await client.send(header)
        await inside.until(lambda: str(inside.session.source) == "127.0.0.1", "its source")
        assert inside.session.destination == (ip_address("127.0.0.1"), 3128)
        await client.send(connect(port))
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        client.sock.close()
        await inside.until(lambda: not inside.worker.sessions)


async def test_a_header_byte_by_byte_with_the_request_behind_it(inside: Inside, port: int) -> None:
    client = inside.connect(PROXY)
    for byte in v2() + connect(port):
        await client.send(bytes((byte,)))
        await asyncio.sleep(0)
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_loopback_counts_only_where_both_ends_are_on_it(inside: Inside, port: int) -> None:
    """Else a client could say in a header that it is nobody to be asked."""
    for source, to in (("192.0.2.1", "127.0.0.1"), ("127.0.0.1", "192.0.2.80"), ("192.0.2.1", "192.0.2.80")):
        assert (await head_of(inside, v2(source, to) + connect(port))).startswith(ASKED)


async def test_local_keeps_the_sockets_own_address(inside: Inside) -> None:
    """A health check of the proxy in front (section 2.2 of the PROXY protocol)."""
    client = inside.connect(PROXY)
    await client.send(v2("192.0.2.77", command=0))
    await asyncio.sleep(0.05)
    assert str(inside.session.source) == PROXY
    client.sock.close()
    await inside.until(lambda: not inside.worker.sessions)
    assert inside.reasons == []


async def test_a_trusted_peer_must_send_one(inside: Inside, port: int) -> None:
    client = inside.connect(PROXY)
    await client.send(connect(port))
    assert await client.rest() == b""
    assert inside.reasons == ["proxy_header"]


@pytest.mark.parametrize("source", ["127.0.0.1", "192.0.2.10", "::1"])
@pytest.mark.parametrize("header", [v2(), b"PROXY TCP4 127.0.0.1 127.0.0.1 5555 3128\r\n"])
async def test_nobody_else_may(inside: Inside, port: int, source: str, header: bytes) -> None:
    client = inside.connect(source)
    await client.send(header + connect(port))
    assert await client.rest() == b""
    assert inside.reasons == ["proxy_header"]


async def test_a_header_must_come_in_three_seconds(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PROXY_HEADER_S == 3
    monkeypatch.setattr(worker_module, "PROXY_HEADER_S", 1.0)
    async with Inside(**TRUSTING) as inside:
        silent, dripping, late = (inside.connect(PROXY) for _ in range(3))
        await dripping.send(v2()[:-1])
        await late.send(v2())  # from here on the handshake's own time counts
        began = asyncio.get_running_loop().time()
        assert [await silent.rest(), await dripping.rest()] == [b"", b""]
        assert asyncio.get_running_loop().time() - began < 2 + STALL_S  # a handshake may take 10 s
        assert inside.reasons == ["handshake_timeout"] * 2
        await late.send(connect(port))
        assert (await late.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await inside.nothing_left()


IDS = (b"7F000001:B4C8_7F4D0001:0C38_67A0_01F3", b"0b5d1c5e-3a3f-4c43-9d0e-2f8d4a1f0e11", b"a" * 128)
NO_IDS = (b"a b", b"a\r\nX-Evil: 1", b'a"b', b"a\\b", b"a\x00b", b"\xc3\xa9", b"id\n", b"<a>")


@pytest.mark.parametrize("unique_id", IDS)
async def test_the_proxys_id_is_the_connections(inside: Inside, port: int, unique_id: bytes) -> None:
    head = await head_of(inside, v2(unique_id=unique_id) + connect(port))
    assert b"\r\nX-Request-Id: " + unique_id + b"\r\n" in head
    await inside.until(lambda: inside.lines)
    assert inside.log[0]["conn_id"] == unique_id.decode()
    refused = await head_of(inside, v2("192.0.2.1", unique_id=unique_id) + connect(port))
    assert refused.startswith(ASKED)
    assert b"\r\nX-Request-Id: " + unique_id + b"\r\n" in refused


async def test_without_a_usable_id_there_is_one_of_our_own(inside: Inside, port: int) -> None:
    """One with other characters in it is not cut down: nobody would find it in the proxy's log."""
    headers = [v2(), v2(), *(v2(unique_id=one) for one in NO_IDS)]
    heads = [await head_of(inside, header + connect(port)) for header in headers]
    ids = [re.findall(rb"\r\nX-Request-Id: ([0-9a-f]{16})\r\n", head) for head in heads]
    assert [len(found) for found in ids] == [1] * len(headers)
    assert len({one for (one,) in ids}) == len(headers)
    assert not any(b"evil" in head.lower() for head in heads)


async def test_an_empty_or_oversize_id_is_no_header(inside: Inside, port: int) -> None:
    for unique_id in (b"", b"a" * 129):
        client = inside.connect(PROXY)
        await client.send(v2(unique_id=unique_id) + connect(port))
        assert await client.rest() == b""
    assert inside.reasons == ["proxy_header"] * 2


async def test_the_server_name_says_the_country(inside: Inside, port: int) -> None:
    head = await head_of(inside, v2(authority=b"proxy-JP.example.org") + connect(port))
    assert b"\r\nX-Exit-Country: jp\r\n" in head
    refused = await head_of(inside, v2(authority=b"proxy-xx.example.org") + connect(port))
    assert refused.startswith(b"HTTP/1.1 400")
    contradicted = await head_of(inside, v2(authority=b"proxy-jp.example.org") + connect(port, "u-country-us:x"))
    assert contradicted.startswith(b"HTTP/1.1 400")


async def test_the_dialled_port_says_the_country(inside: Inside, port: int) -> None:
    assert b"\r\nX-Exit-Country: jp\r\n" in await head_of(inside, v2(port=10392) + connect(port))


# clients that may not come

FORBIDDEN = "192.0.2.66"
REFUSALS = [(connect, b"HTTP/1.1 403"), (socks4, b"\0\x5b"), (socks5, b"\x05\xff")]


@pytest.mark.parametrize("behind_a_proxy", [False, True])
@pytest.mark.parametrize(("request_of", "begins"), REFUSALS)
async def test_who_is_not_listed_is_told_so_in_its_own_protocol(
    port: int, request_of: object, begins: bytes, behind_a_proxy: bool
) -> None:
    async with Inside(allow_clients=["127.0.0.0/8"], **TRUSTING) as inside:
        client = inside.connect(PROXY if behind_a_proxy else FORBIDDEN)
        await client.send((v2(FORBIDDEN) if behind_a_proxy else b"") + request_of(port))  # type: ignore[operator]
        told = await client.rest()
        assert told.startswith(begins)
        if b"HTTP" in begins:
            assert f"{FORBIDDEN} is not among the client addresses".encode() in told
        assert inside.reasons == ["client_forbidden"]
        assert inside.refusals() == {"client_forbidden": 1}
        assert inside.fleet.in_flight == 0
        await inside.nothing_left()


async def test_who_is_not_listed_cannot_stay(port: int) -> None:
    async with Inside(allow_clients=["127.0.0.0/8"], handshake_timeout=1) as inside:
        silent = inside.connect(FORBIDDEN)
        assert await silent.rest() == b""
        assert (await head_of(inside, connect(port), "127.0.0.1")).startswith(b"HTTP/1.1 200")
        await inside.nothing_left()


async def test_a_listed_client_behind_a_proxy_that_is_not_listed_may_come(port: int) -> None:
    async with Inside(allow_clients=["127.0.0.0/8"], **TRUSTING) as inside:
        assert (await head_of(inside, v2() + connect(port))).startswith(b"HTTP/1.1 200")
        await inside.nothing_left()


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", b"\xff\xfe\xfd", b"\r\n\r\nxx"])
async def test_what_is_no_protocol_of_ours_is_closed_without_a_word(inside: Inside, sent: bytes) -> None:
    client = inside.connect()
    await client.send(sent)
    assert await client.rest() == b""
    assert inside.reasons == ["bad_request"]


async def test_a_user_is_not_asked_on_loopback_unless_configured(port: int) -> None:
    async with Inside(user(), require_auth=True) as inside:
        assert (await head_of(inside, connect(port), "127.0.0.1")).startswith(ASKED)
        await inside.nothing_left()

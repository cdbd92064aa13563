"""PROXY headers against a real gateway: good ones count, anything else ends the connection without a word."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from gateway.wire.proxy_protocol import crc32c
from health.registry import Registry
from tests.conftest import STALL_S
from tests.gateway.harness import Exit, Gateway, curl, serve, wait_for
from tests.gateway.test_bad_input import GET, SOCKS5, answer_to, ends

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]

HEADER_S = 3
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ASK = GET + b"Connection: close\r\n\r\n"
JP, DE = 10392, 10276
ADDRESSES = IPv4Address("127.0.0.9").packed + IPv4Address("127.0.0.8").packed


def v2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + bytes((command, family)) + size.to_bytes(2) + body


def dialled(port: int, tlvs: bytes = b"") -> bytes:
    """A client called 127.0.0.8 at `port`."""
    return v2(0x21, 0x11, ADDRESSES + (5555).to_bytes(2) + port.to_bytes(2) + tlvs)


def dialled6(port: int) -> bytes:
    here = IPv6Address("::1").packed
    return v2(0x21, 0x21, here + here + (5555).to_bytes(2) + port.to_bytes(2))


def with_crc(header: bytes) -> bytes:
    """`header` ends with a CRC32C field of zeros."""
    return header[:-4] + crc32c(header).to_bytes(4)


CRC = b"\x03\x00\x04" + bytes(4)
GOOD = {
    "v1": (b"PROXY TCP4 127.0.0.9 127.0.0.8 5555 10276\r\n", "de000001"),
    "v1, IPv6": (b"PROXY TCP6 ::1 ::1 5555 10392\r\n", "jp000001"),
    "v2": (dialled(DE), "de000001"),
    "v2, IPv6": (dialled6(JP), "jp000001"),
    "v2 with unknown fields": (dialled(DE, b"\xe0\x00\x03abc\x05\x00\x02id"), "de000001"),
    "v2 with a checksum": (with_crc(dialled(JP, CRC)), "jp000001"),
    # These keep the socket's own addresses: a port that means no country.
    "v1, unknown": (b"PROXY UNKNOWN 127.0.0.9 127.0.0.8 5555 10276\r\n", ""),
    "v2, local": (v2(0x20, 0x11, ADDRESSES + bytes(20)), ""),
    "v2, local, of no family": (v2(0x20, 0xD1, bytes(7)), ""),
    "v2, unspecified": (v2(0x21, 0x00, bytes(30)), ""),
}
BAD = {
    "none": b"",
    "version 3": v2(0x31, 0x11, ADDRESSES + bytes(4)),
    "command 2": v2(0x22, 0x11, ADDRESSES + bytes(4)),
    "family 13": v2(0x21, 0xD1, ADDRESSES + bytes(4)),
    "a datagram's": v2(0x21, 0x12, ADDRESSES + bytes(4)),
    "too short for its addresses": v2(0x21, 0x11, ADDRESSES),
    "a field past the header": dialled(DE, b"\xe0\x00\x09abc"),
    "dangling bytes": dialled(DE, b"\xe0\x00"),
    "a wrong checksum": dialled(DE, CRC),
    "a checksum of 3 bytes": dialled(DE, b"\x03\x00\x03abc"),
    "two server names": dialled(DE, b"\x02\x00\x01a\x02\x00\x01b"),
    "a server name with NUL": dialled(DE, b"\x02\x00\x03a\0b"),
    "65535 bytes announced": v2(0x21, 0x11, ADDRESSES + bytes(4), 65535),
    "v1 of 107 bytes": b"PROXY UNKNOWN " + b"a" * 93,
    "v1 with a lone LF": b"PROXY TCP4 127.0.0.9 127.0.0.8 5555 10276\n",
    "v1 with leading zeros": b"PROXY TCP4 127.0.0.9 127.0.0.8 05555 10276\r\n",
    "v1 with an octal address": b"PROXY TCP4 127.0.0.011 127.0.0.8 5555 10276\r\n",
    "v1 with port 65536": b"PROXY TCP4 127.0.0.9 127.0.0.8 5555 65536\r\n",
    "v1 with two spaces": b"PROXY  TCP4 127.0.0.9 127.0.0.8 5555 10276\r\n",
    "v1 of the wrong family": b"PROXY TCP6 127.0.0.9 127.0.0.8 5555 10276\r\n",
    "v1 in lower case": b"proxy tcp4 127.0.0.9 127.0.0.8 5555 10276\r\n",
}


async def trusting(exits: Exits, registry: Registry, gateways: Gateways) -> Gateway:
    """A gateway that believes loopback peers, with an exit in each of two countries."""
    gateway = gateways(trusted_proxies=["127.0.0.0/8"])
    await serve(registry, exits("jp000001"), exits("de000001"))
    for port, node in ((JP, b"jp000001"), (DE, b"de000001")):
        wait_for(lambda p=port, n=node: n in answer_to(gateway, dialled(p) + ASK), what=node.decode())
    return gateway


def at_rest(gateway: Gateway) -> Counter[str]:
    """How connections ended, when all have."""
    wait_for(lambda: "vpnexit_gateway_open_connections 0.0" in gateway.metrics(), what="no connection")
    return ends(gateway)


async def test_the_table(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway = await trusting(exits, registry, gateways)
    for name, (header, node) in GOOD.items():
        answer = answer_to(gateway, header + ASK)
        assert answer.startswith(b"HTTP/1.1 200 OK"), (name, answer)
        assert node.encode() in answer, (name, answer)
    before = at_rest(gateway)
    for name, header in BAD.items():
        for behind in (ASK, SOCKS5):
            assert answer_to(gateway, header + behind) == b"", name
    assert at_rest(gateway) - before == {"proxy_header": 2 * len(BAD)}
    assert "Traceback" not in gateway.log.read_text()


async def test_a_header_cut_anywhere(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway = await trusting(exits, registry, gateways)
    for header in (dialled(DE, b"\x05\x00\x02id"), b"PROXY TCP4 127.0.0.9 127.0.0.8 5555 10276\r\n"):
        for cut in range(len(header)):
            assert answer_to(gateway, header[:cut]) == b""
    answer = b""
    with gateway.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in dialled(DE) + ASK:
            sock.sendall(bytes((byte,)))
        while data := sock.recv(65536):
            answer += data
    assert b"de000001" in answer
    assert "Traceback" not in gateway.log.read_text()


@pytest.mark.parametrize("dripped", [False, True])
async def test_a_header_must_come_in_time(exits: Exits, registry: Registry, gateways: Gateways, dripped: bool) -> None:
    """3 seconds, however long a handshake may take."""
    gateway = gateways(trusted_proxies=["127.0.0.0/8"], handshake_timeout=30)
    before = ends(gateway)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)

    async def send() -> None:
        for byte in dialled(DE) if dripped else b"":
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.5)

    sending = asyncio.create_task(send())
    started = time.monotonic()
    try:
        assert await asyncio.wait_for(reader.read(), 5 * HEADER_S) == b""
    finally:
        sending.cancel()
        writer.transport.abort()
    assert HEADER_S * 0.9 < time.monotonic() - started < HEADER_S * 2 + STALL_S
    wait_for(lambda: (ends(gateway) - before).total() == 1, what="counted")
    assert set(ends(gateway) - before) <= {"proxy_header", "handshake_timeout"}


async def test_nobody_else_may_send_one(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(trusted_proxies=["127.9.9.9/32"]), exits("jp000001")
    await serve(registry, jp)
    wait_for(lambda: curl("-x", gateway.url, "http://origin.test/").stdout == "jp000001\n", what="serving")
    before = at_rest(gateway)
    for header, _ in GOOD.values():
        assert answer_to(gateway, header + ASK) == b""
    assert at_rest(gateway) - before == {"proxy_header": len(GOOD)}

from ipaddress import ip_address

import pytest

from gateway.wire.base import WireError
from gateway.wire.proxy_protocol import MAX_V2_BODY, Endpoint, ProxyHeader, crc32c, parse
from gateway.wire.sniff import PROXY_V2_SIGNATURE
from health.reasons import Reason

# As HAProxy 2.6.12 sent it: send-proxy-v2, proxy-v2-options authority,unique-id,crc32c,ssl,cert-cn.
HAPROXY = bytes.fromhex(
    "0d0a0d0a000d0a515549540a211100637f0000017f0000019506480b030004623e8c2a02001470726f78792d4a502e6578616d706c652e6f72"
    "6705002437336437393036642d373839372d343339362d383832362d33323932356439333434333420000f0100000000210007544c5376312e"
    "33"
)
IPV4 = (ip_address("198.18.0.7"), 40000), (ip_address("198.18.0.1"), 10392)
IPV6 = (ip_address("2001:2::7"), 40000), (ip_address("2001:2::1"), 10392)


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def endpoints(pair: tuple[Endpoint, Endpoint]) -> bytes:
    (source, source_port), (destination, destination_port) = pair
    return source.packed + destination.packed + source_port.to_bytes(2) + destination_port.to_bytes(2)


def build_v2(body: bytes = b"", *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return PROXY_V2_SIGNATURE + bytes([command, family]) + size.to_bytes(2) + body


def with_crc(body: bytes) -> bytes:
    """The header of `body` and a right CRC32C after it."""
    blank = build_v2(body + tlv(3, bytes(4)))
    return blank[:-4] + crc32c(blank).to_bytes(4)


def refused(data: bytes) -> str:
    with pytest.raises(WireError) as caught:
        parse(data)
    assert caught.value.reason is Reason.PROXY_HEADER
    assert caught.value.reply == b""
    return caught.value.detail


def test_the_check_value_of_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_a_header_of_real_haproxy() -> None:
    header, used = parse(HAPROXY + b"\x05\x01\x00") or pytest.fail("incomplete")
    assert used == len(HAPROXY)
    assert header == ProxyHeader(
        source=(ip_address("127.0.0.1"), 38150),
        destination=(ip_address("127.0.0.1"), 18443),
        authority="proxy-jp.example.org",
        unique_id=b"73d7906d-7897-4396-8826-32925d934434",
    )


@pytest.mark.parametrize("position", range(16, len(HAPROXY)))
def test_a_bit_turned_anywhere_behind_the_length_is_noticed(position: int) -> None:
    refused(HAPROXY[:position] + bytes([HAPROXY[position] ^ 1]) + HAPROXY[position + 1 :])


@pytest.mark.parametrize(("family", "pair"), [(0x11, IPV4), (0x21, IPV6)])
def test_version_2_carries_addresses(family: int, pair: tuple[Endpoint, Endpoint]) -> None:
    data = build_v2(endpoints(pair), family=family)
    assert parse(data + b"GET") == (ProxyHeader(source=pair[0], destination=pair[1]), len(data))


def test_every_shorter_piece_needs_more() -> None:
    for data in (HAPROXY, b"PROXY TCP4 198.18.0.7 198.18.0.1 40000 10392\r\n"):
        assert all(parse(data[:length]) is None for length in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        build_v2(b"\x00\x01junk", command=0x20, family=0x00),
        build_v2(b"\x00\x01junk", command=0x20, family=0x11),
        build_v2(b"", command=0x20, family=0xDD),
    ],
)
def test_local_keeps_the_sockets_address_and_skips_the_length(data: bytes) -> None:
    assert parse(data + b"x") == (ProxyHeader(local=True), len(data))


@pytest.mark.parametrize(
    "data",
    [
        build_v2(b"\x01\x02", family=0x00),
        build_v2(b"", family=0x10),
        build_v2(b"", family=0x01),
        build_v2(bytes(216), family=0x31),
    ],
)
def test_unspecified_and_unix_keep_the_sockets_address(data: bytes) -> None:
    assert parse(data) == (ProxyHeader(), len(data))


@pytest.mark.parametrize(
    "data",
    [
        build_v2(endpoints(IPV4), command=0x31),  # version 3
        build_v2(endpoints(IPV4), command=0x22),  # command 2
        build_v2(endpoints(IPV4), command=0x11),  # version 1 in binary
        build_v2(endpoints(IPV4), family=0xD1),
        build_v2(endpoints(IPV4), family=0x13),
        build_v2(endpoints(IPV4), family=0x12),  # a datagram
        build_v2(endpoints(IPV4)[:-1]),  # too short for its addresses
        build_v2(endpoints(IPV4), family=0x21),
        build_v2(length=65535),  # refused before any of it arrives
        build_v2(length=65535, command=0x20),
        build_v2(length=MAX_V2_BODY + 1),
        build_v2(endpoints(IPV4) + b"\x04\x00\x02x"),  # a TLV past the header
        build_v2(endpoints(IPV4) + b"\x04\x00"),  # dangling bytes
        build_v2(endpoints(IPV4) + tlv(4, b"") + b"\x04"),
        build_v2(endpoints(IPV4) + tlv(3, bytes(4))),  # wrong CRC32C
        build_v2(endpoints(IPV4) + tlv(3, bytes(3))),
        build_v2(endpoints(IPV4) + tlv(2, b"a.example") + tlv(2, b"b.example")),
        build_v2(endpoints(IPV4) + tlv(2, b"")),
        build_v2(endpoints(IPV4) + tlv(2, b"a.example\0b")),
        build_v2(endpoints(IPV4) + tlv(2, b"\xff.example")),
        build_v2(endpoints(IPV4) + tlv(5, b"")),
        build_v2(endpoints(IPV4) + tlv(5, bytes(129))),
        build_v2(endpoints(IPV4) + tlv(0x20, bytes(4))),
        build_v2(endpoints(IPV4) + tlv(0x20, bytes(5) + b"\x21\x00\x09x")),
        b"\r\n\r\n\x00\r\nQUIX",
        b"\r\nGET",
    ],
)
def test_version_2_is_refused(data: bytes) -> None:
    refused(data)


def test_a_right_checksum_and_unknown_tlvs_pass() -> None:
    data = with_crc(endpoints(IPV4) + tlv(0xE0, b"own") + tlv(4, bytes(9)) + tlv(0xE0, b"twice"))
    assert parse(data) == (ProxyHeader(source=IPV4[0], destination=IPV4[1]), len(data))


def test_the_largest_header_passes() -> None:
    body = endpoints(IPV4)
    data = build_v2(body + tlv(4, bytes(MAX_V2_BODY - len(body) - 3)))
    assert parse(data) == (ProxyHeader(source=IPV4[0], destination=IPV4[1]), 16 + MAX_V2_BODY)


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (b"PROXY TCP4 198.18.0.7 198.18.0.1 40000 10392", ProxyHeader(source=IPV4[0], destination=IPV4[1])),
        (b"PROXY TCP6 2001:2::7 2001:2::1 40000 10392", ProxyHeader(source=IPV6[0], destination=IPV6[1])),
        (b"PROXY UNKNOWN", ProxyHeader()),
        (b"PROXY UNKNOWN whatever follows is skipped", ProxyHeader()),
        (b"PROXY UNKNOWN " + b"f" * 91, ProxyHeader()),
    ],
)
def test_version_1(line: bytes, header: ProxyHeader) -> None:
    assert parse(line + b"\r\nGET ") == (header, len(line) + 2)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN " + b"f" * 93,  # 107 bytes without CRLF
        b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",  # one byte too long
        b"PROXY TCP4 198.18.0.7 198.18.0.1 40000 10392\n",
        b"PROXY UNKNOWN\nmore\r\n",
        b"PROXY UNKNOWN x\r\r\n",
        b"PROXY UNKNOWN\rx",
        b"PROXY TCP4 198.18.0.7 198.18.0.1 040000 10392\r\n",
        b"PROXY TCP4 198.18.0.7 198.18.0.1 40000 65536\r\n",
        b"PROXY TCP4 198.18.0.7 198.18.0.1 40000 +1\r\n",
        b"PROXY TCP4 198.18.0.7 198.18.0.1 40000\r\n",
        b"PROXY TCP4 198.18.0.7 198.18.0.1 40000 10392 \r\n",
        b"PROXY TCP4  198.18.0.7 198.18.0.1 40000 10392\r\n",
        b"PROXY TCP4 198.018.0.7 198.18.0.1 40000 10392\r\n",
        b"PROXY TCP4 2001:2::7 198.18.0.1 40000 10392\r\n",
        b"PROXY TCP6 198.18.0.7 2001:2::1 40000 10392\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:2::1 40000 10392\r\n",
        b"PROXY UDP4 198.18.0.7 198.18.0.1 40000 10392\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY \r\n",
        b"PROXY\r\n",
        b"PROXY \xff",
        b"GET / HTTP/1.1\r\n",
        b"\x05\x01\x00",
    ],
)
def test_version_1_is_refused(data: bytes) -> None:
    refused(data)

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.base import Target, WireError
from gateway.wire.socks_udp import DESTINATION, MAX_HEADER, data_start, header, header_to, target
from health.reasons import Reason

V4 = b"\x01\xc6\x12\x00\x07\x00\x35"
V6 = b"\x04" + ip_address("2001:2::7").packed + b"\x00\x35"
NAME = b"\x03\x0bExample.org\x00\x35"


def parse(datagram: bytes) -> tuple[Target, bytes]:
    start = data_start(memoryview(datagram))
    return target(datagram[DESTINATION:start]), datagram[start:]


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        (V4, Target("198.18.0.7", 53, ip_address("198.18.0.7"))),
        (V6, Target("2001:2::7", 53, ip_address("2001:2::7"))),
        (NAME, Target("example.org", 53)),
        (b"\x03\x0a198.18.0.7\x00\x35", Target("198.18.0.7", 53, ip_address("198.18.0.7"))),
        (b"\x03\x01a\xff\xff", Target("a", 65535)),
    ],
)
@pytest.mark.parametrize("data", [b"", b"x", bytes(65000)])
def test_a_datagram(destination: bytes, expected: Target, data: bytes) -> None:
    assert parse(bytes(3) + destination + data) == (expected, data)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", Reason.BAD_REQUEST),
        (bytes(3), Reason.BAD_REQUEST),
        (bytes(3) + V4[:-1], Reason.BAD_REQUEST),
        (bytes(3) + V6[:-1], Reason.BAD_REQUEST),
        (bytes(3) + NAME[:-1], Reason.BAD_REQUEST),
        (b"\x00\x01\x00" + V4, Reason.BAD_REQUEST),
        (b"\x01\x00\x00" + V4, Reason.BAD_REQUEST),
        (b"\x00\x00\x01" + V4, Reason.NOT_IMPLEMENTED),
        (b"\x00\x00\x80" + V4, Reason.NOT_IMPLEMENTED),
        (bytes(3) + b"\x00" + V4[1:], Reason.ADDRESS_UNSUPPORTED),
        (bytes(3) + b"\x02" + V4[1:], Reason.ADDRESS_UNSUPPORTED),
        (bytes(3) + V4[:-2] + b"\x00\x00data", Reason.BAD_REQUEST),
        (bytes(3) + b"\x03\x00\x00\x35data", Reason.BAD_REQUEST),
        (bytes(3) + b"\x03\x0b127.0.0.1\0.x\x00\x35", Reason.BAD_REQUEST),
        (bytes(3) + b"\x03\x05127.1\x00\x35", Reason.BAD_REQUEST),
        (bytes(3) + b"\x03\x05[::1]\x00\x35", Reason.BAD_REQUEST),
        (bytes(3) + b"\x03\xff" + b"a" * 255 + b"\x00\x35", Reason.NAME_NOT_FOUND),
    ],
)
def test_a_bad_header(datagram: bytes, reason: Reason) -> None:
    with pytest.raises(WireError) as caught:
        parse(datagram)
    assert caught.value.reason is reason


@settings(deadline=None)
@given(st.ip_addresses(), st.integers(1, 65535), st.binary(max_size=64))
def test_what_is_wrapped_is_read_back(address: object, port: int, data: bytes) -> None:
    sender = ip_address(str(address))
    head = header(sender, port)
    assert len(head) <= MAX_HEADER
    assert parse(head + data) == (Target(str(sender), port, sender), data)


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=300) | st.binary(max_size=280).map(lambda rest: bytes(3) + rest))
def test_any_bytes_are_read_or_refused(datagram: bytes) -> None:
    try:
        found, data = parse(datagram)
    except WireError:
        return
    assert datagram[:3] == bytes(3)
    assert 1 <= found.port <= 65535
    assert len(datagram) - MAX_HEADER <= len(data) <= len(datagram) - 7
    assert datagram.endswith(data)


@pytest.mark.parametrize("destination", [V4, V6, NAME, b"\x03\x01a\xff\xff"])
def test_what_is_handed_on_means_the_same(destination: bytes) -> None:
    meant = target(destination)
    assert parse(header_to(meant) + b"data") == (meant, b"data")

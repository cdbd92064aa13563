from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.base import Target, WireError
from gateway.wire.socks import NeedData
from gateway.wire.socks4 import GRANTED, MAX_USER_ID, REFUSED, Request, Socks4Handshake
from health.reasons import Reason

ADDRESS = ip_address("198.18.0.7")


def request(
    host: str = "198.18.0.7", user: bytes = b"", name: bytes | None = None, *, port: int = 443, command: int = 1
) -> bytes:
    head = bytes([4, command]) + port.to_bytes(2) + ip_address(host).packed + user + b"\0"
    return head if name is None else head + name + b"\0"


def named(name: bytes, user: bytes = b"") -> bytes:
    return request("0.0.0.1", user, name)


def play(data: bytes, where: list[int], *, auth_required: bool = False) -> object:
    """The request and what follows it, the refusal, or None where more is needed, of `data` cut at `where`."""
    handshake = Socks4Handshake(auth_required)
    edges = sorted({0, len(data), *(at for at in where if at < len(data))})
    try:
        for first, last in pairwise(edges):
            handshake.receive(data[first:last])
            event = handshake.next_event()
            if isinstance(event, Request):
                return event, handshake.leftover + data[last:]
            assert len(handshake.leftover) <= 8 + MAX_USER_ID + 1 + 255
    except WireError as error:
        return error.reason, error.detail, error.reply
    return None


def refusal(data: bytes, *, auth_required: bool = False) -> WireError:
    handshake = Socks4Handshake(auth_required)
    handshake.receive(data)
    with pytest.raises(WireError) as caught:
        handshake.next_event()
    with pytest.raises(RuntimeError):
        handshake.next_event()
    return caught.value


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request(), Request("", Target("198.18.0.7", 443, ADDRESS))),
        (request(user=b"u-country-jp"), Request("u-country-jp", Target("198.18.0.7", 443, ADDRESS))),
        (request("0.0.0.0"), Request("", Target("0.0.0.0", 443, ip_address("0.0.0.0")))),  # a literal, for `targets`
        (request("0.0.1.0"), Request("", Target("0.0.1.0", 443, ip_address("0.0.1.0")))),
        (named(b"Example.org.", b"u"), Request("u", Target("example.org", 443))),
        (request("0.0.0.255", b"", b"example.org"), Request("", Target("example.org", 443))),
        (named(b"198.18.0.7"), Request("", Target("198.18.0.7", 443, ADDRESS))),
        (request(user=b"u" * MAX_USER_ID), Request("u" * MAX_USER_ID, Target("198.18.0.7", 443, ADDRESS))),
    ],
)
def test_requests(data: bytes, expected: Request) -> None:
    for where in ([], list(range(len(data))), [8], [len(data) - 1]):
        assert play(data + b"early", where) == (expected, b"early")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (request(command=2), Reason.COMMAND_UNSUPPORTED),  # BIND
        (request(command=3), Reason.COMMAND_UNSUPPORTED),
        (request(command=0), Reason.COMMAND_UNSUPPORTED),
        (request(port=0), Reason.BAD_REQUEST),
        (request(user=b"u" * (MAX_USER_ID + 1)), Reason.TOO_LARGE),
        (request(user=b"u" * 65536), Reason.TOO_LARGE),
        (request()[:8] + b"u" * (MAX_USER_ID + 1), Reason.TOO_LARGE),  # before its end is seen
        (named(b"a" * 256), Reason.TOO_LARGE),
        (named(b"a" * 255), Reason.NAME_NOT_FOUND),
        (named(b""), Reason.BAD_REQUEST),
        (named(b"127.1"), Reason.BAD_REQUEST),
        (named(b"0x7f000001"), Reason.BAD_REQUEST),
        (named("b\u00fccher.example".encode()), Reason.BAD_REQUEST),
        (named(b"example.org\r\nx"), Reason.BAD_REQUEST),
    ],
)
def test_a_bad_request_gets_the_one_refusal(data: bytes, reason: Reason) -> None:
    error = refusal(data)
    assert (error.reason, error.reply) == (reason, REFUSED)


def test_a_name_ends_at_its_nul() -> None:
    assert play(named(b"127.0.0.1\0.evil.example"), []) == (
        Request("", Target("127.0.0.1", 443, ip_address("127.0.0.1"))),
        b".evil.example\0",
    )


def test_where_a_password_is_required_nothing_is_read() -> None:
    for data in (b"\x04", request(), b"\x04" + b"u" * 65536):
        error = refusal(data, auth_required=True)
        assert (error.reason, error.reply) == (Reason.AUTH_REQUIRED, REFUSED)


def test_another_version_closes_without_a_word() -> None:
    error = refusal(b"\x05\x01")
    assert (error.reason, error.reply) == (Reason.BAD_REQUEST, b"")


def test_nothing_comes_after_the_request() -> None:
    handshake = Socks4Handshake(False)
    assert handshake.next_event() == NeedData()
    handshake.receive(request())
    assert isinstance(handshake.next_event(), Request)
    with pytest.raises(RuntimeError):
        handshake.next_event()


def test_replies() -> None:
    assert GRANTED == b"\x00\x5a\x00\x00\x00\x00\x00\x00"
    assert REFUSED == b"\x00\x5b\x00\x00\x00\x00\x00\x00"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good request with a few bytes replaced, inserted or removed."""
    data = bytearray(draw(st.sampled_from([request(user=b"u-country-jp"), named(b"example.org", b"u"), named(b"")])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(data + draw(st.sampled_from([b"", b"early", b"x" * 900])))


@settings(deadline=None, max_examples=500)
@given(damaged() | st.binary(max_size=1200), st.lists(st.integers(0, 1200), max_size=12))
def test_any_bytes_cut_anywhere_mean_the_same(data: bytes, where: list[int]) -> None:
    assert play(data, where) == play(data, []) == play(data, list(range(len(data))))

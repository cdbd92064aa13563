"""Asking a SOCKS5 upstream: any split of its bytes, every reply, and nothing taken that is the tunnel's."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.base import Target, WireError
from gateway.wire.upstream_socks import Socks5Associate, Socks5Client
from health.reasons import WIRE, Fault, Reason

NAME = Target("example.org", 443)
LOGIN = (b"alice-country-jp", b"secret")
ASKED = b"\x05\x01\x00\x03\x0bexample.org\x01\xbb"
SENT_LOGIN = b"\x01\x10alice-country-jp\x06secret"
V4_REPLY = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38"
NAME_REPLY = b"\x05\x00\x00\x03\x04exit\x04\x38"
V6_REPLY = b"\x05\x00\x00\x04" + bytes(16) + b"\x04\x38"


def converse(client: Socks5Client, incoming: bytes, sizes: list[int] | None = None) -> tuple[bytes, bytes]:
    """Feed `incoming` in pieces as the shell does; returns what was sent, and what was left in the socket."""
    sent = client.opening
    cuts = iter(sizes or [])
    while incoming and not client.connected:
        piece = incoming[: next(cuts, len(incoming))]
        count = client.belongs(piece)
        assert 0 < count <= len(piece)
        sent += client.receive(piece[:count])
        incoming = incoming[count:]
    return sent, incoming


@pytest.mark.parametrize("reply", [V4_REPLY, NAME_REPLY, V6_REPLY])
@given(st.lists(st.integers(1, 30)))
def test_any_split_connects_and_leaves_the_tunnel_alone(reply: bytes, sizes: list[int]) -> None:
    client = Socks5Client(NAME, LOGIN)
    sent, left = converse(client, b"\x05\x02\x01\x00" + reply + b"SSH-2.0 early", sizes)
    assert client.connected
    assert client.asked
    assert sent == b"\x05\x01\x02" + SENT_LOGIN + ASKED
    assert left == b"SSH-2.0 early"


@pytest.mark.parametrize(
    ("target", "wire"),
    [
        (Target("192.0.2.7", 80, ip_address("192.0.2.7")), b"\x01\xc0\x00\x02\x07\x00\x50"),
        (Target("2001:db8::1", 80, ip_address("2001:db8::1")), b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x00\x50"),
        (Target("a" * 63 + ".org", 80), b"\x03\x43" + b"a" * 63 + b".org\x00\x50"),
    ],
)
def test_nobody_asks_for_a_login(target: Target, wire: bytes) -> None:
    client = Socks5Client(target, None)
    sent, _ = converse(client, b"\x05\x00" + V4_REPLY)
    assert sent == b"\x05\x01\x00" + b"\x05\x01\x00" + wire
    assert client.connected


def test_a_server_that_says_5_in_the_login_answer_is_understood() -> None:
    client = Socks5Client(NAME, LOGIN)
    converse(client, b"\x05\x02\x05\x00" + V4_REPLY)
    assert client.connected


@pytest.mark.parametrize(
    ("code", "reason", "fault"),
    [
        (1, Reason.NODE_DIAL, Fault.NODE),
        (2, Reason.TARGET_FORBIDDEN, Fault.CLIENT),
        (3, Reason.NETWORK_UNREACHABLE, Fault.TARGET),
        (4, Reason.HOST_UNREACHABLE, Fault.TARGET),
        (5, Reason.REFUSED, Fault.TARGET),
        (6, Reason.TARGET_TIMEOUT, Fault.TARGET),
        (7, Reason.NODE_DIAL, Fault.NODE),
        (8, Reason.NODE_DIAL, Fault.NODE),
        (9, Reason.NODE_DIAL, Fault.NODE),
        (255, Reason.NODE_DIAL, Fault.NODE),
    ],
)
@pytest.mark.parametrize("rest", [b"", b"\x00\x01" + bytes(6)])
def test_whose_fault_a_refusal_is(code: int, reason: Reason, fault: Fault, rest: bytes) -> None:
    client = Socks5Client(NAME, None)
    with pytest.raises(WireError) as refused:
        converse(client, b"\x05\x00\x05" + bytes((code,)) + rest)
    assert refused.value.reason is reason
    assert WIRE[reason].fault is fault
    assert client.asked


@pytest.mark.parametrize(
    ("incoming", "asked"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (b"\x04\x5a", False),
        (b"\x05\xff", False),
        (b"\x05\x00", False),  # chosen without having been offered
        (b"\x05\x02\x01\x01", False),  # the log-in refused
        (b"\x05\x02\x01\x00\x04\x00", True),
        (b"\x05\x02\x01\x00\x05\x00\x00\x02" + bytes(6), True),
    ],
)
def test_refused_logins_and_nonsense_are_the_nodes(incoming: bytes, asked: bool) -> None:
    client = Socks5Client(NAME, LOGIN)
    with pytest.raises(WireError) as refused:
        converse(client, incoming)
    assert refused.value.reason is Reason.NODE_DIAL
    assert client.asked is asked
    assert "secret" not in str(refused.value)


@given(st.binary(max_size=400), st.lists(st.integers(1, 40), max_size=20), st.booleans())
def test_any_bytes_end_in_bounds(incoming: bytes, sizes: list[int], with_login: bool) -> None:
    client = Socks5Client(NAME, LOGIN if with_login else None)
    refused, left = None, b""
    try:
        _, left = converse(client, incoming, sizes)
    except WireError as error:
        refused = error
    assert client.connected or not left
    assert refused is None or WIRE[refused.reason].fault in (Fault.NODE, Fault.TARGET, Fault.CLIENT)


@pytest.mark.parametrize(
    ("reply", "bound"),
    [
        (V4_REPLY, Target("127.0.0.1", 1080, ip_address("127.0.0.1"))),
        (V6_REPLY, Target("::", 1080, ip_address("::"))),
        (NAME_REPLY, Target("exit", 1080)),
        (b"\x05\x00\x00\x03\x02\xff\x00\x00\x00", Target("\xff\0", 0)),
    ],
)
@given(st.lists(st.integers(1, 30)))
def test_a_relay_is_asked_for_in_any_split(reply: bytes, bound: Target, sizes: list[int]) -> None:
    client = Socks5Associate(LOGIN)
    sent, left = converse(client, b"\x05\x02\x01\x00" + reply + b"more", sizes)
    assert client.connected
    assert sent == b"\x05\x01\x02" + SENT_LOGIN + b"\x05\x03\x00\x01" + bytes(6)
    assert left == b"more"
    assert client.bound == bound


@pytest.mark.parametrize("code", [*range(1, 10), 255])
def test_a_relay_that_is_refused_is_the_nodes_fault(code: int) -> None:
    with pytest.raises(WireError, match="no UDP" if code == 7 else "UDP ASSOCIATE") as refused:
        converse(Socks5Associate(None), b"\x05\x00\x05" + bytes([code]))
    assert WIRE[refused.value.reason].fault is Fault.NODE

"""Any bytes, cut anywhere, mean the same: no parser takes one read for one message, or keeps more than it may."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.wire import http_head, proxy_protocol, sniff, socks
from gateway.wire.base import WireError
from gateway.wire.sniff import PROXY_V2_SIGNATURE
from health.reasons import Reason

HEAD = b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\nX: y\r\n\r\nbody"
GREETING = b"\x05\x02\x00\x02"
LOGIN = b"\x01\x05alice\x06secret"
REQUEST = b"\x05\x01\x00\x03\x0bexample.org\x01\xbb"
V1 = b"PROXY TCP4 198.18.0.7 198.18.0.1 40000 10392\r\n"
V2 = (
    PROXY_V2_SIGNATURE
    + b"\x21\x11\x00\x17"
    + b"\xc6\x12\x00\x07\xc6\x12\x00\x01\x9c\x40\x28\x98"
    + b"\x02\x00\x08ab.cd.ef"
)

SEEDS = (
    HEAD,
    b"\r\n" + HEAD,
    GREETING + LOGIN + REQUEST + b"early",
    b"\x05\x01\x00" + REQUEST,
    V1 + HEAD,
    V2 + GREETING,
)

cuts = st.lists(st.integers(0, 400), max_size=12)
any_bytes = st.binary(max_size=300)
lines = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b":", b"a", b"GET", b"HTTP/1.1", b"\x00", b"PROXY "]), max_size=40
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good conversation with a few bytes replaced, inserted or removed."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(data)


conversations = damaged() | any_bytes | lines.map(b"".join)


def pieces(data: bytes, where: list[int]) -> Iterator[bytes]:
    edges = sorted({0, len(data), *(at for at in where if at < len(data))})
    for first, last in pairwise(edges):
        yield data[first:last]


def refusal(error: WireError) -> tuple[Reason, str, bytes]:
    return error.reason, error.detail, error.reply


def grow(parse: Callable[[bytes], object], data: bytes, where: list[int]) -> object:
    """The first answer that is not "more", with the bytes growing piece by piece."""
    seen = b""
    for piece in pieces(data, where):
        seen += piece
        try:
            result = parse(seen)
        except WireError as error:
            return refusal(error)
        if result is not None:
            return result
    return None


def drip(data: bytes, where: list[int]) -> object:
    """`parse_head` as a session calls it: what was seen is not scanned again."""
    seen, scanned = bytearray(), 0
    for piece in pieces(data, where):
        seen += piece
        try:
            head = http_head.parse_head(seen, scanned)
        except WireError as error:
            return refusal(error)
        if head is not None:
            return head
        scanned = len(seen)
    return None


def shake(data: bytes, where: list[int], auth_required: bool) -> tuple[list[object], bytes]:
    handshake = socks.Socks5Handshake(auth_required)
    events: list[object] = []
    given = list(pieces(data, where))
    for number, piece in enumerate(given):
        handshake.receive(piece)
        while True:
            try:
                event = handshake.next_event()
            except WireError as error:
                return [*events, refusal(error)], b""
            if isinstance(event, socks.NeedData):
                assert len(handshake.leftover) <= 512
                break
            events.append(event)
            if isinstance(event, socks.Credentials):
                handshake.auth_result(True)
            if isinstance(event, socks.Request):
                return events, handshake.leftover + b"".join(given[number + 1 :])
    return events, handshake.leftover


@settings(deadline=None, max_examples=300)
@given(conversations, cuts)
def test_sniffing(data: bytes, where: list[int]) -> None:
    whole = sniff.sniff(data)
    assert grow(sniff.sniff, data, where) == whole
    assert whole is not None or len(data) < len(PROXY_V2_SIGNATURE)


@settings(deadline=None, max_examples=500)
@given(conversations, cuts)
@example(b"PROXY UNKNOWN x\r\r\n", [16])
def test_proxy_headers(data: bytes, where: list[int]) -> None:
    assert grow(proxy_protocol.parse, data, where) == grow(proxy_protocol.parse, data, [])


@settings(deadline=None, max_examples=500)
@given(conversations, cuts)
@example(HEAD, [31, 32, 33, 34])
def test_http_heads(data: bytes, where: list[int]) -> None:
    whole = grow(http_head.parse_head, data, [])
    assert grow(http_head.parse_head, data, where) == whole
    assert drip(data, where) == whole
    assert drip(data, list(range(len(data)))) == whole


@settings(deadline=None, max_examples=500)
@given(conversations, cuts, st.booleans())
def test_socks_handshakes(data: bytes, where: list[int], auth_required: bool) -> None:
    assert shake(data, where, auth_required) == shake(data, [], auth_required)
    assert shake(data, list(range(len(data))), auth_required) == shake(data, [], auth_required)


def test_the_seeds_are_good_conversations() -> None:
    assert isinstance(grow(http_head.parse_head, HEAD, []), http_head.Head)
    assert grow(proxy_protocol.parse, V1, []) is not None
    assert isinstance(grow(proxy_protocol.parse, V2, []), tuple)
    events, leftover = shake(GREETING + LOGIN + REQUEST + b"early", [], True)
    assert isinstance(events[-1], socks.Request)
    assert leftover == b"early"


def test_garbage_without_end_is_refused_within_bounds() -> None:
    """What each parser takes before it gives up: 64 KiB of a head, 107 bytes and 4112 of a PROXY header."""
    endless = b"A" * 100_000
    assert drip(b"GET http://" + endless, list(range(0, 100_000, 1000))) == refusal_of_head()
    for start, limit in ((b"PROXY UNKNOWN ", proxy_protocol.MAX_V1), (V2[:14] + b"\xff\xff", 16)):
        data = (start + endless)[:limit]
        assert isinstance(grow(proxy_protocol.parse, data, list(range(limit))), tuple)


def refusal_of_head() -> tuple[Reason, str, bytes]:
    return Reason.TOO_LARGE, f"the request head is larger than {http_head.MAX_HEAD} bytes", b""

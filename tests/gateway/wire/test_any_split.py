"""Any bytes, cut anywhere, mean the same: no parser takes one read for one message, or keeps more than it may."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.wire import http_head, proxy_protocol, socks4
from health.reasons import Reason
from tests.gateway.wire.parsers import GET, MORE, PARSERS, V2, Refusal

SEEDS = [seed for parser in PARSERS.values() for seed in parser.seeds]
WORDS = [b"\r", b"\n", b"\r\n", b" ", b":", b"a", b"-", b".", b"GET", b"HTTP/1.1", b"0", b"\x00", b"\x05", b"PROXY "]

cuts = st.lists(st.integers(0, 400), max_size=12)


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good conversation with a few bytes replaced, inserted or removed."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(data)


def conversations(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    return (
        damaged(seeds)
        | st.sampled_from(SEEDS)
        | st.binary(max_size=300)
        | st.lists(st.sampled_from(WORDS), max_size=40).map(b"".join)
    )


@pytest.mark.parametrize("name", PARSERS)
def test_cuts_change_nothing(name: str) -> None:
    parser = PARSERS[name]

    @settings(deadline=None, max_examples=300)
    @given(conversations(parser.seeds), cuts)
    @example(GET + b"\r\n", [31, 32, 33, 34])
    @example(b"PROXY UNKNOWN x\r\r\n", [16])
    def check(data: bytes, where: list[int]) -> None:
        whole = parser.run(data, [])
        assert parser.run(data, where) == whole
        assert parser.run(data, range(len(data))) == whole

    check()


@pytest.mark.parametrize("name", PARSERS)
def test_the_seeds_are_good_conversations(name: str) -> None:
    """Or fuzzing would start from refusals. (Some show what an upstream or a target refuses.)"""
    good = [seed for seed in PARSERS[name].seeds if not refused(PARSERS[name].run(seed, []))]
    assert len(good) >= (len(PARSERS[name].seeds) + 1) // 2


def refused(outcome: object) -> bool:
    parts = outcome if isinstance(outcome, tuple | list) else [outcome]
    return isinstance(outcome, Refusal) or any(isinstance(part, Refusal) for part in parts) or outcome == MORE


ENDLESS = b"A" * 200_000


@pytest.mark.parametrize(
    ("name", "start", "limit", "reason"),
    [
        ("http_request", b"GET http://", http_head.MAX_HEAD, Reason.TOO_LARGE),
        ("http_answer", b"HTTP/1.1 200 OK\r\nX: ", http_head.MAX_HEAD, Reason.TARGET_PROTOCOL),
        ("upstream_http", b"HTTP/1.1 200 OK\r\nX: ", 16384, Reason.NODE_DIAL),
        ("proxy_protocol", b"PROXY UNKNOWN ", proxy_protocol.MAX_V1, Reason.PROXY_HEADER),
        ("proxy_protocol", V2[:14] + b"\xff\xff", 16, Reason.PROXY_HEADER),
        ("socks4", b"\x04\x01\x00\x50\xc6\x12\x00\x01", 8 + socks4.MAX_USER_ID + 1, Reason.TOO_LARGE),
        ("socks4", b"\x04\x01\x00\x50\x00\x00\x00\x01u\x00", 10 + 256, Reason.TOO_LARGE),
    ],
)
def test_what_never_ends_is_refused_within_bounds(name: str, start: bytes, limit: int, reason: Reason) -> None:
    data = (start + ENDLESS)[: limit + 1]
    outcome = PARSERS[name].run(data, range(0, limit, 1 if limit < 1000 else 1000))
    found = outcome if isinstance(outcome, Refusal) else outcome[1]  # type: ignore[index]
    assert isinstance(found, Refusal)
    assert found.reason == reason

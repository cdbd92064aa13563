from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.base import WireError
from gateway.wire.http_body import (
    MAX_CHUNK_LINE,
    MAX_TRAILERS,
    Body,
    Chunked,
    Sized,
    UntilClose,
    answer_body,
    chunk,
    last_chunk,
    request_body,
)
from gateway.wire.http_head import parse_answer, parse_head
from health.reasons import Reason

BODY = b"5\r\nhello\r\n1;a=b\r\n,\r\n006 \r\n world\r\n0\r\nX-Sum: 1\r\nY:2\r\n\r\n"


def fed(body: Body, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """Payload and rest after feeding `data` in pieces that end at `cuts`."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    payload, rest = b"", b""
    for start, end in pairwise(edges):
        if body.done:
            rest += data[start:end]
            continue
        part, rest = body.feed(data[start:end])
        payload += part
    return payload, rest


def test_a_chunked_body_cut_anywhere() -> None:
    for step in range(1, len(BODY) + 1):
        body = Chunked()
        assert fed(body, BODY + b"rest", list(range(0, len(BODY), step))) == (b"hello, world", b"rest")
        assert body.done
        assert body.trailers == [(b"X-Sum", b"1"), (b"Y", b"2")]


def test_every_shorter_piece_is_incomplete() -> None:
    for length in range(len(BODY)):
        body = Chunked()
        body.feed(BODY[:length])
        assert not body.done
        with pytest.raises(WireError):
            body.end()


def test_payload_is_given_at_once() -> None:
    body = Chunked()
    assert body.feed(b"5\r\nhe") == (b"he", b"")
    assert body.feed(b"llo") == (b"llo", b"")
    assert body.feed(b"\r") == (b"", b"")
    assert body.feed(b"\n0\r\n\r\nnext") == (b"", b"next")


@pytest.mark.parametrize(
    "data",
    [
        b"0x3\r\nabc", b"+3\r\nabc", b"-3\r\nabc", b"0_3\r\nabc", b" 3\r\nabc", b"\r\n", b";a\r\n", b"1junk\r\na",
        b"3\nabc", b"3\r\nabcd\r\n", b"3\r\nabc\n\n", b"3\r\nabc\r\r", b"2\r\r;a\r\nab", b"3;a\rb\r\nabc",
        b"3;\0\r\nabc", b"7fffffffffffffff\r\n", b"0000000000003\r\nabc", b"0\r\nX: a\nb\r\n\r\n",
        b"0\r\nno colon\r\n\r\n", b"0\r\nX : a\r\n\r\n", b"0\r\nX: a\r\n b\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_chunk(data: bytes) -> None:
    for cuts in ([], list(range(len(data)))):
        with pytest.raises(WireError) as caught:
            fed(Chunked(), data, cuts)
        assert caught.value.reason is Reason.BAD_REQUEST


def test_lines_and_trailers_without_end() -> None:
    body = Chunked()
    body.feed(b"3;" + b"a" * (MAX_CHUNK_LINE - 2))
    with pytest.raises(WireError):
        body.feed(b"a")
    body = Chunked()
    body.feed(b"0\r\nX: " + b"a" * (MAX_TRAILERS - 4))
    with pytest.raises(WireError) as caught:
        body.feed(b"a")
    assert caught.value.reason is Reason.TOO_LARGE


def judged_by_h11(data: bytes) -> tuple[bytes, bytes] | None:
    """What h11 makes of a chunked body: payload and rest; None where it refuses."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    payload = b""
    try:
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Data):
                payload += event.data
            elif isinstance(event, h11.EndOfMessage):
                return payload, connection.trailing_data[0]
    except h11.RemoteProtocolError:
        return None
    return payload, b""


pieces = st.sampled_from(
    [
        b"1\r\na\r\n",
        b"0\r\n\r\n",
        b"3\r\n",
        b"abc",
        b"\r\n",
        b"\n",
        b"\r",
        b"0",
        b"a",
        b";x=1",
        b" ",
        b"X: 1\r\n",
        b"0\r\n",
    ]
)
streams = st.lists(st.one_of(pieces, st.binary(max_size=3)), max_size=12).map(b"".join)
cuts = st.lists(st.integers(0, 200), max_size=6)


@settings(deadline=None, max_examples=2000)
@given(streams, cuts)
def test_nothing_passes_that_h11_refuses_or_reads_differently(data: bytes, where: list[int]) -> None:
    body = Chunked()
    try:
        payload, rest = fed(body, data, where)
    except WireError:
        return
    judged = judged_by_h11(data)
    if body.done:
        assert judged == (payload, rest)
    elif judged is not None:  # h11 may refuse at once what is refused here with the end of its line
        assert judged[0] == payload


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 250), cuts)
def test_a_sized_body(data: bytes, length: int, where: list[int]) -> None:
    body = Sized(length)
    assert fed(body, data, where) == (data[:length], data[length:])
    assert body.done == (len(data) >= length)


def test_a_body_until_close() -> None:
    body = UntilClose()
    assert body.feed(b"abc") == (b"abc", b"")
    assert not body.done
    body.end()
    assert body.done


def test_a_short_body_is_noticed() -> None:
    body = Sized(5)
    body.feed(b"abc")
    with pytest.raises(WireError, match="2 bytes short"):
        body.end()


def test_the_body_of_a_request() -> None:
    def body(*fields: bytes) -> Body:
        head = parse_head(b"\r\n".join((b"POST http://a/ HTTP/1.1", *fields, b"", b"")))
        assert head is not None
        return request_body(head)

    assert body().done
    assert body(b"Content-Length: 0").done
    assert body(b"Content-Length: 3").feed(b"abcd") == (b"abc", b"d")
    assert isinstance(body(b"Transfer-Encoding: chunked"), Chunked)


def answered(method: bytes, status: int, *fields: bytes, version: bytes = b"1.1") -> Body:
    answer = parse_answer(b"\r\n".join((b"HTTP/%b %d X" % (version, status), *fields, b"", b"")))
    assert answer is not None
    return answer_body(answer, method)


def test_the_body_of_an_answer() -> None:
    assert isinstance(answered(b"GET", 200), UntilClose)
    assert isinstance(answered(b"GET", 200, version=b"1.0"), UntilClose)
    assert isinstance(answered(b"GET", 200, b"Transfer-Encoding: CHUNKED"), Chunked)
    assert isinstance(answered(b"GET", 200, b"Content-Length: 3"), Sized)
    assert answered(b"GET", 200, b"Content-Length: 3", b"Content-Length: 3").feed(b"abcd") == (b"abc", b"d")
    assert answered(b"HEAD", 200, b"Content-Length: 3").done
    assert answered(b"HEAD", 200, b"Transfer-Encoding: chunked").done
    assert answered(b"GET", 204).done
    assert answered(b"GET", 304, b"Content-Length: 3").done


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 3", b"Content-Length: 4"),
        (b"Content-Length: 3, 3",),
        (b"Content-Length: +3",),
        (b"Content-Length:",),
        (b"Content-Length: 9223372036854775808",),
        (b"Transfer-Encoding: gzip, chunked",),
        (b"Transfer-Encoding: gzip",),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_an_answer_whose_end_is_in_doubt(fields: tuple[bytes, ...], method: bytes) -> None:
    with pytest.raises(WireError) as caught:
        answered(method, 200, *fields)
    assert caught.value.reason is Reason.TARGET_PROTOCOL


def test_chunked_in_an_answer_of_http_1_0() -> None:
    with pytest.raises(WireError):
        answered(b"GET", 200, b"Transfer-Encoding: chunked", version=b"1.0")


@given(st.lists(st.binary(max_size=50)))
def test_what_is_written_is_read(parts: list[bytes]) -> None:
    body = Chunked()
    written = b"".join(map(chunk, parts)) + last_chunk([(b"X", b"1")])
    assert body.feed(written + b"rest") == (b"".join(parts), b"rest")
    assert body.trailers == [(b"X", b"1")]

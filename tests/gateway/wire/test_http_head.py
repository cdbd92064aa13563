import pytest

from gateway.wire.base import WireError
from gateway.wire.http_head import MAX_FIELDS, MAX_HEAD, parse_answer, parse_head, parse_trailers
from health.reasons import Reason

REQUEST = b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\nX-Empty:\r\nX-Space: \t a b \t\r\n\r\n"


def refused(data: bytes) -> Reason:
    with pytest.raises(WireError) as caught:
        parse_head(data)
    return caught.value.reason


def test_a_head_and_what_follows_it() -> None:
    head = parse_head(REQUEST + b"\x16\x03\x00\n\r\x00")
    assert head is not None
    assert (head.method, head.target, head.version) == (b"CONNECT", b"example.org:443", b"1.1")
    assert head.headers == [(b"host", b"example.org:443"), (b"x-empty", b""), (b"x-space", b"a b")]
    assert head.names == (b"Host", b"X-Empty", b"X-Space")
    assert head.consumed == len(REQUEST)
    assert head.values(b"host") == [b"example.org:443"]


def test_every_shorter_piece_needs_more() -> None:
    assert all(parse_head(REQUEST[:length]) is None for length in range(len(REQUEST)))


def test_bytes_that_drip_in_are_each_looked_at_once() -> None:
    data = bytearray()
    for byte in REQUEST[:-1]:
        data.append(byte)
        assert parse_head(data, len(data) - 1) is None
    data += REQUEST[-1:]
    assert parse_head(data, len(data) - 1) == parse_head(REQUEST)


@pytest.mark.parametrize("broken", [b"\n", b"\x00", b"\rx"])
def test_a_byte_that_drips_in_broken_is_noticed_at_once(broken: bytes) -> None:
    data = REQUEST[:-2] + broken
    assert parse_head(data[: -len(broken)]) is None
    with pytest.raises(WireError):
        parse_head(data, len(data) - len(broken))


def test_one_empty_line_before_a_request_is_skipped() -> None:
    head = parse_head(b"\r\n" + REQUEST)
    assert head is not None
    assert head.consumed == len(REQUEST) + 2
    assert refused(b"\r\n\r\n" + REQUEST) is Reason.BAD_REQUEST


def test_no_field_at_all() -> None:
    head = parse_head(b"GET http://example.org/ HTTP/1.0\r\n\r\n")
    assert head is not None
    assert (head.headers, head.version) == ([], b"1.0")


@pytest.mark.parametrize(
    "line",
    [
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\x00b",
        b"X: \x0bchunked",
        b"X: a\x7f",
        b"X\x00: a",
        b"X\r: a",
        b"X : a",
        b"X\t: a",
        b" X: a",
        b"\tfolded",
        b" folded",
        b": a",
        b"no colon",
        b"X(y): a",
        b"\xfc: a",
    ],
)
def test_a_field_line_another_parser_might_read_differently(line: bytes) -> None:
    assert (
        refused(b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n" + line + b"\r\n\r\n") is Reason.BAD_REQUEST
    )


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://example.org/",
        b"GET  http://example.org/ HTTP/1.1",
        b"GET http://example.org/ HTTP/1.1 ",
        b"GET http://example.org/ http/1.1",
        b"GET http://example.org/ HTTP/1",
        b"GET http://example.org/ HTTP/11.1",
        b"GET http://example.org/a b HTTP/1.1",
        b"GET http://example.org/\xc3\xa4 HTTP/1.1",
        b"GET\thttp://example.org/\tHTTP/1.1",
        b"GE(T http://example.org/ HTTP/1.1",
        b" GET http://example.org/ HTTP/1.1",
        b"GET HTTP/1.1",
        b"",
    ],
)
def test_a_malformed_request_line(line: bytes) -> None:
    assert refused(line + b"\r\nHost: example.org\r\n\r\n") is Reason.BAD_REQUEST


@pytest.mark.parametrize("version", [b"9.9", b"2.0", b"0.9", b"1.2"])
def test_another_version_of_http(version: bytes) -> None:
    assert refused(b"GET http://example.org/ HTTP/" + version + b"\r\n\r\n") is Reason.NOT_IMPLEMENTED


def test_bare_line_feeds_are_refused_before_the_head_ends() -> None:
    assert refused(b"GET http://example.org/ HTTP/1.1\n") is Reason.BAD_REQUEST


def test_the_largest_head_passes_and_one_byte_more_does_not() -> None:
    start, end = b"GET http://example.org/ HTTP/1.1\r\nX: ", b"\r\n\r\n"
    filling = b"a" * (MAX_HEAD - len(start) - len(end))
    head = parse_head(start + filling + end)
    assert head is not None
    assert head.consumed == MAX_HEAD
    assert parse_head(start + filling + end[:-1]) is None
    assert refused(start + filling + b"a" + end) is Reason.TOO_LARGE
    assert refused(start + filling + b"a" + end[:-1]) is Reason.TOO_LARGE


def test_four_megabytes_of_fields() -> None:
    assert refused(b"GET http://example.org/ HTTP/1.1\r\n" + b"X: a\r\n" * 700_000) is Reason.TOO_LARGE


def test_too_many_fields() -> None:
    start = b"GET http://example.org/ HTTP/1.1\r\n"
    assert parse_head(start + b"X: a\r\n" * MAX_FIELDS + b"\r\n") is not None
    assert refused(start + b"X: a\r\n" * (MAX_FIELDS + 1) + b"\r\n") is Reason.TOO_LARGE


def test_no_field_is_in_the_text_form() -> None:
    head = parse_head(b"GET http://example.org/?key=1 HTTP/1.1\r\nProxy-Authorization: Basic c2VjcmV0\r\n\r\n")
    assert "c2VjcmV0" not in repr(head)
    assert "key=1" not in repr(head)


ANSWER = b"HTTP/1.1 200 Very OK\r\nContent-Length: 2\r\nX : a\r\n\r\n"


def test_an_answer_and_what_follows_it() -> None:
    answer = parse_answer(ANSWER + b"ok\n\0")
    assert answer is not None
    assert (answer.status, answer.phrase, answer.version) == (200, b"Very OK", b"1.1")
    assert answer.headers == [(b"content-length", b"2"), (b"x", b"a")]  # the space before the colon is removed
    assert answer.names == (b"Content-Length", b"X")
    assert answer.consumed == len(ANSWER)
    assert answer.values(b"x") == [b"a"]
    assert all(parse_answer(ANSWER[:length]) is None for length in range(len(ANSWER)))


@pytest.mark.parametrize(
    ("line", "status", "version"),
    [
        (b"HTTP/1.1 200 ", 200, b"1.1"),
        (b"HTTP/1.1 200", 200, b"1.1"),
        (b"HTTP/1.0 404 Nicht gefunden \xfc", 404, b"1.0"),
        (b"HTTP/1.1 999 Request denied", 999, b"1.1"),
        (b"HTTP/1.7 100 Continue", 100, b"1.1"),
    ],
)
def test_status_lines(line: bytes, status: int, version: bytes) -> None:
    answer = parse_answer(line + b"\r\n\r\n")
    assert answer is not None
    assert (answer.status, answer.version) == (status, version)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n" + ANSWER,
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb",
        b"HTTP/1.1 200 OK\r\nX: a\0",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * (MAX_FIELDS + 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD,
    ],
)
def test_a_malformed_answer(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        parse_answer(data)
    assert caught.value.reason is Reason.TARGET_PROTOCOL


def test_trailers() -> None:
    assert parse_trailers(b"X-Sum: 1\r\ny:\t2 ") == [(b"X-Sum", b"1"), (b"y", b"2")]
    for wrong in (b"X", b"X : a", b" X: a", b"X: a\r\n b", b"X: a\nb: c", b"X: \0", b"X: a\r\n" * MAX_FIELDS + b"X: a"):
        with pytest.raises(WireError):
            parse_trailers(wrong)

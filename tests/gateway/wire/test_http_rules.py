import pytest

from gateway.wire.base import WireError
from gateway.wire.http_head import Head, parse_head
from gateway.wire.http_rules import check_framing, forward_headers, response_headers
from health.reasons import Reason


def post(*fields: bytes, version: bytes = b"1.1") -> Head:
    line = b"POST http://example.org/ HTTP/" + version
    head = parse_head(b"\r\n".join((line, b"Host: other.example", *fields, b"", b"")))
    assert head is not None
    return head


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"Content-Length: 0",),
        (b"Content-Length: 9223372036854775807",),
        (b"Transfer-Encoding: chunked",),
        (b"Transfer-Encoding: Chunked",),
    ],
)
def test_framing_with_one_meaning(fields: tuple[bytes, ...]) -> None:
    check_framing(post(*fields))


@pytest.mark.parametrize("value", [b"+3", b"-1", b"0x3", b"1_0", b"", b"3, 4", b"3,3", b"3 4", b"3.0", b"\xb2"])
def test_a_content_length_is_digits(value: bytes) -> None:
    refused(Reason.BAD_REQUEST, b"Content-Length: " + value)


def refused(reason: Reason, *fields: bytes, version: bytes = b"1.1") -> None:
    with pytest.raises(WireError) as caught:
        check_framing(post(*fields, version=version))
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 18446744073709551617",),  # 2^64 + 1
        (b"Content-Length: 9223372036854775808",),
        (b"Content-Length: 00000000000000000003",),
        (b"Content-Length: 3", b"Content-Length: 3"),
        (b"Content-Length: 3", b"Content-Length: 4"),
        (b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 3"),
        (b"Transfer-Encoding: identity", b"Content-Length: 3"),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: ,chunked",),
        (b"Transfer-Encoding: chunked,",),
        (b"Transfer-Encoding: chunked;q=1",),
        (b'Transfer-Encoding: "chunked"',),
        (b"Transfer-Encoding:",),
    ],
)
def test_framing_that_two_parsers_could_read_differently(fields: tuple[bytes, ...]) -> None:
    refused(Reason.BAD_REQUEST, *fields)


@pytest.mark.parametrize("value", [b"xchunked", b"gzip, chunked", b"chunked, chunked", b"identity", b"gzip"])
def test_another_transfer_coding(value: bytes) -> None:
    refused(Reason.NOT_IMPLEMENTED, b"Transfer-Encoding: " + value)


def test_transfer_encoding_in_http_1_0() -> None:
    refused(Reason.BAD_REQUEST, b"Transfer-Encoding: chunked", version=b"1.0")


def test_end_to_end_fields_go_on_as_they_were_written() -> None:
    head = post(b"User-Agent: x", b"ACCEPT: */*", b"Cookie: a=b", b"Cookie: c=d", b"Content-Length: 3")
    assert forward_headers(head, b"example.org") == [
        (b"Host", b"example.org"),
        (b"User-Agent", b"x"),
        (b"ACCEPT", b"*/*"),
        (b"Cookie", b"a=b"),
        (b"Cookie", b"c=d"),
        (b"Content-Length", b"3"),
        (b"Via", b"1.1 vpnexit"),
    ]


@pytest.mark.parametrize(
    "field",
    [
        b"Connection: close",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"Upgrade: websocket",
        b"Proxy-Authorization: Basic YTpi",
        b"Proxy-Connection: keep-alive",
        b"Proxy: http://evil.example",
        b"proxy-anything: 1",
    ],
)
def test_fields_that_stay_here(field: bytes) -> None:
    assert forward_headers(post(field), b"example.org") == [(b"Host", b"example.org"), (b"Via", b"1.1 vpnexit")]


def test_connection_names_fields_that_stay_here() -> None:
    head = post(b"X-Hop: 1", b"Connection: x-HOP, close", b"Connection:, X-Other ,", b"X-Other: 2", b"X-Stays: 3")
    assert forward_headers(head, b"example.org")[1:-1] == [(b"X-Stays", b"3")]


@pytest.mark.parametrize("field", [b"Content-Length: 3", b"Authorization: Basic YTpi", b"Transfer-Encoding: chunked"])
def test_connection_cannot_remove_what_gives_a_request_its_meaning(field: bytes) -> None:
    name, _, value = field.partition(b": ")
    head = post(field, b"Connection: Host, Via, " + name, b"Via: 1.0 first")
    assert forward_headers(head, b"example.org") == [
        (b"Host", b"example.org"),
        (name, value),
        (b"Via", b"1.0 first, 1.1 vpnexit"),
    ]


def test_a_coding_goes_on_in_one_spelling() -> None:
    assert (b"Transfer-Encoding", b"chunked") in forward_headers(post(b"Transfer-Encoding: ChUnKeD"), b"example.org")


def test_via_grows_by_one() -> None:
    head = post(b"Via: 1.1 a", b"via: 1.0 b, 1.1 c", version=b"1.0")
    assert forward_headers(head, b"x")[-1] == (b"Via", b"1.1 a, 1.0 b, 1.1 c, 1.0 vpnexit")


def test_response_headers() -> None:
    fields = [
        (b"Date", b"today"),
        (b"Connection", b"X-Hop, keep-alive, Content-Length"),
        (b"X-Hop", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"Proxy-Status", b"origin"),
        (b"Upgrade", b"h2c"),
        (b"Set-Cookie", b"a=b"),
        (b"Set-Cookie", b"c=d"),
        (b"Content-Length", b"3"),
    ]
    assert response_headers(fields, b"1.1") == [
        (b"Date", b"today"),
        (b"Proxy-Status", b"origin"),
        (b"Set-Cookie", b"a=b"),
        (b"Set-Cookie", b"c=d"),
        (b"Content-Length", b"3"),
        (b"Via", b"1.1 vpnexit"),
    ]

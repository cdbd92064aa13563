import pytest

from gateway.wire.base import WireError
from gateway.wire.http_head import Answer, Head, parse_answer, parse_head
from gateway.wire.http_rules import (
    agrees_to_websocket,
    check_framing,
    check_loop,
    forward_headers,
    forward_trailers,
    hops_left,
    response_headers,
    wants_websocket,
    write_head,
)
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


def answer(*fields: bytes, status: bytes = b"200") -> Answer:
    parsed = parse_answer(b"\r\n".join((b"HTTP/1.1 " + status + b" X", *fields, b"", b"")))
    assert parsed is not None
    return parsed


def test_response_headers() -> None:
    fields = (
        b"Date: today",
        b"Connection: X-Hop, keep-alive, Content-Length",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Proxy-Status: origin",
        b"Upgrade: h2c",
        b"X-Exit-Node: forged",
        b"x-request-id: forged",
        b"Set-Cookie: a=b",
        b"Set-Cookie: c=d",
        b"Content-Length: 3",
        b"Content-Length: 3",
    )
    assert response_headers(answer(*fields)) == [
        (b"Date", b"today"),
        (b"Proxy-Status", b"origin"),
        (b"Set-Cookie", b"a=b"),
        (b"Set-Cookie", b"c=d"),
        (b"Content-Length", b"3"),
        (b"Via", b"1.1 vpnexit"),
    ]


@pytest.mark.parametrize(("status", "length"), [(b"103", False), (b"204", False), (b"304", True), (b"200", True)])
def test_where_an_answer_may_have_a_length(status: bytes, length: bool) -> None:
    fields = response_headers(answer(b"Content-Length: 3", status=status))
    assert ((b"Content-Length", b"3") in fields) == length


def test_transfer_encoding_is_left_to_who_sends_the_body() -> None:
    assert response_headers(answer(b"Transfer-Encoding: chunked")) == [(b"Via", b"1.1 vpnexit")]


WEBSOCKET = (b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket")


def get(*fields: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> Head:
    head = parse_head(b"\r\n".join((method + b" http://a/ HTTP/" + version, b"Host: a", *fields, b"", b"")))
    assert head is not None
    return head


def test_the_wish_for_a_websocket() -> None:
    assert wants_websocket(get(*WEBSOCKET))
    assert wants_websocket(get(*WEBSOCKET, b"Content-Length: 0"))
    assert wants_websocket(get(b"Connection: upgrade", b"Upgrade: h2c, websocket"))
    assert not wants_websocket(get())
    assert not wants_websocket(get(b"Upgrade: websocket"))
    assert not wants_websocket(get(b"Connection: upgrade"))
    assert not wants_websocket(get(b"Connection: upgrade", b"Upgrade: h2c"))
    assert not wants_websocket(get(b"Connection: upgrade", b"Upgrade: websocket/13"))
    assert not wants_websocket(get(*WEBSOCKET, method=b"POST"))
    assert not wants_websocket(get(*WEBSOCKET, version=b"1.0"))
    assert not wants_websocket(get(*WEBSOCKET, b"Content-Length: 3"))
    assert not wants_websocket(get(*WEBSOCKET, b"Transfer-Encoding: chunked"))


def test_the_switch_goes_on_as_one() -> None:
    switch = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    assert forward_headers(get(b"Connection: upgrade", b"Upgrade: h2c, websocket"), b"a", upgrade=True)[-2:] == switch
    agreed = answer(b"Upgrade: WebSocket", b"Connection: upgrade", b"Sec-WebSocket-Accept: x", status=b"101")
    assert agrees_to_websocket(agreed)
    assert response_headers(agreed, upgrade=True) == [
        (b"Sec-WebSocket-Accept", b"x"),
        (b"Via", b"1.1 vpnexit"),
        *switch,
    ]
    assert not agrees_to_websocket(answer(b"Upgrade: h2c", status=b"101"))
    assert not agrees_to_websocket(answer(status=b"101"))


def test_max_forwards() -> None:
    for method in (b"TRACE", b"OPTIONS"):
        head = get(b"max-forwards: 7", method=method)
        assert hops_left(head) == 7
        assert (b"max-forwards", b"6") in forward_headers(head, b"a")
        assert hops_left(get(method=method)) is None
    head = get(b"Max-Forwards: 0")
    assert hops_left(head) is None
    assert (b"Max-Forwards", b"0") in forward_headers(head, b"a")


@pytest.mark.parametrize("fields", [(b"-1",), (b"",), (b"1, 2",), (b"1", b"1"), (b"9" * 10,)])
def test_max_forwards_is_one_number(fields: tuple[bytes, ...]) -> None:
    with pytest.raises(WireError):
        hops_left(get(*(b"Max-Forwards: " + value for value in fields), method=b"TRACE"))


@pytest.mark.parametrize("field", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
def test_trace_has_no_body(field: bytes) -> None:
    with pytest.raises(WireError):
        check_framing(get(field, method=b"TRACE"))
    check_framing(get(b"Content-Length: 0", method=b"TRACE"))


def test_a_request_that_comes_round_again() -> None:
    check_loop(get(b"Via: 1.1 vpnexit, 1.1 squid", b"Via: 1.1 vpnexit"))
    check_loop(get(*[b"Via: 1.1 other (vpnexit), vpnexit, , 1.1"] * 9))
    with pytest.raises(WireError) as caught:
        check_loop(get(b"Via: 1.1 vpnexit, 1.1 squid, 1.0 VPNEXIT (a b)", b"Via: HTTP/1.1 vpnexit"))
    assert caught.value.reason is Reason.LOOP


def test_expect_of_http_1_0_stays_here() -> None:
    assert (b"Expect", b"100-continue") in forward_headers(get(b"Expect: 100-continue"), b"a")
    assert forward_headers(get(b"Expect: 100-continue", version=b"1.0"), b"a") == [
        (b"Host", b"a"),
        (b"Via", b"1.0 vpnexit"),
    ]


def test_trailers_that_may_go_on() -> None:
    kept = [(b"X-Sum", b"1"), (b"Digest", b"2")]
    dropped = [
        (name, b"x")
        for name in (b"Content-Length", b"Host", b"AUTHORIZATION", b"Set-Cookie", b"Connection", b"Proxy-Status", b"TE")
    ]
    assert forward_trailers([kept[0], *dropped, kept[1]]) == kept


def test_a_head_is_written() -> None:
    assert write_head(b"GET / HTTP/1.1", [(b"Host", b"a"), (b"X", b"")]) == b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"

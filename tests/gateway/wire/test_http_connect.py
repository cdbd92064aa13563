import base64
from ipaddress import ip_address

import pytest

from gateway.wire.base import Target, WireError
from gateway.wire.http_connect import absolute_target, connect_target, credentials
from gateway.wire.http_head import Head, parse_head
from health.reasons import Reason


def head_of(line: bytes, *fields: bytes) -> Head:
    head = parse_head(b"\r\n".join((line, *fields, b"", b"")))
    assert head is not None
    return head


def connect(target: bytes, *fields: bytes) -> Head:
    return head_of(b"CONNECT " + target + b" HTTP/1.1", *(fields or (b"Host: example.org",)))


def get(url: bytes, *fields: bytes, method: bytes = b"GET") -> Head:
    return head_of(method + b" " + url + b" HTTP/1.1", *(fields or (b"Host: example.org",)))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (b"example.org:443", Target("example.org", 443)),
        (b"EXAMPLE.org.:1", Target("example.org", 1)),
        (b"198.18.0.7:65535", Target("198.18.0.7", 65535, ip_address("198.18.0.7"))),
        (b"[2001:2:0::7]:443", Target("2001:2::7", 443, ip_address("2001:2::7"))),
    ],
)
def test_a_connect_target(text: bytes, target: Target) -> None:
    assert connect_target(connect(text)) == target


@pytest.mark.parametrize(
    "text",
    [
        b"example.org",
        b"example.org:",
        b"example.org:0",
        b"example.org:-1",
        b"example.org:65616",  # 65536 + 80
        b"example.org:0443",
        b"example.org:https",
        b"example.org:443:443",
        b"user@example.org:443",
        b"user:password@example.org:443",
        b"example.org:443/path",
        b"example.org/path:443",
        b"example.org:443?q",
        b"example.org:443#f",
        b"http://example.org:443",
        b"https://example.org/",
        b"/",
        b"*",
        b":443",
        b"[[::1]]:443",
        b"[::1:443",
        b"::1:443",
        b"[example.org]:443",
        b"[198.18.0.7]:443",
        b"[fe80::1%25eth0]:443",
        b"[]:443",
        b"[2001:2::7]",
        b"[2001:2::7]443",
        b"127.1:443",
        b"0x7f000001:443",
        b"2130706433:443",
        b"example.org%00:443",
        b"example.org%2e:443",
        b"example.org\\@evil.example:443",
    ],
)
def test_a_malformed_connect_target(text: bytes) -> None:
    with pytest.raises(WireError) as caught:
        connect_target(connect(text))
    assert caught.value.reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(
    "fields",
    [
        (b"Host: a.example", b"Host: a.example"),
        (b"Host: a.example", b"hOST: b.example"),
        (b"X-No-Host: 1",),
        (b"Host: a b",),
        (b"Host: a,b.example/x",),
        (b"Host: user@a.example",),
    ],
)
def test_host_must_be_there_once_and_be_a_host(fields: tuple[bytes, ...]) -> None:
    for head in (connect(b"example.org:443", *fields), get(b"http://example.org/", *fields)):
        with pytest.raises(WireError) as caught:
            connect_target(head) if head.method == b"CONNECT" else absolute_target(head)
        assert caught.value.reason is Reason.BAD_REQUEST


def test_http_1_0_needs_no_host() -> None:
    assert connect_target(head_of(b"CONNECT example.org:443 HTTP/1.0")) == Target("example.org", 443)


@pytest.mark.parametrize("field", [b"Content-Length: 5", b"Content-Length: x", b"Transfer-Encoding: chunked"])
def test_connect_has_no_body(field: bytes) -> None:
    with pytest.raises(WireError) as caught:
        connect_target(connect(b"example.org:443", b"Host: example.org", field))
    assert caught.value.reason is Reason.BAD_REQUEST
    assert connect_target(connect(b"example.org:443", b"Host: example.org", b"Content-Length: 0")).port == 443


@pytest.mark.parametrize(
    ("url", "target", "form", "host"),
    [
        (b"http://example.org/a?b=c", Target("example.org", 80), b"/a?b=c", b"example.org"),
        (b"http://example.org", Target("example.org", 80), b"/", b"example.org"),
        (b"ws://example.org/chat", Target("example.org", 80), b"/chat", b"example.org"),
        (b"HTTP://EXAMPLE.org?x", Target("example.org", 80), b"/?x", b"example.org"),
        (b"http://example.org:8080//x/../y", Target("example.org", 8080), b"//x/../y", b"example.org:8080"),
        (b"http://example.org:/", Target("example.org", 80), b"/", b"example.org"),
        (b"http://example.org:80/@x:1", Target("example.org", 80), b"/@x:1", b"example.org"),
        (b"http://198.18.0.7/", Target("198.18.0.7", 80, ip_address("198.18.0.7")), b"/", b"198.18.0.7"),
        (b"http://[2001:2::7]/", Target("2001:2::7", 80, ip_address("2001:2::7")), b"/", b"[2001:2::7]"),
        (b"http://[2001:2::7]:81/", Target("2001:2::7", 81, ip_address("2001:2::7")), b"/", b"[2001:2::7]:81"),
    ],
)
def test_an_absolute_target_rewrites_host(url: bytes, target: Target, form: bytes, host: bytes) -> None:
    assert absolute_target(get(url, b"Host: other.example")) == (target, form, host)


def test_options_of_a_whole_server() -> None:
    assert absolute_target(get(b"http://example.org", method=b"OPTIONS"))[1] == b"*"
    assert absolute_target(get(b"http://example.org/", method=b"OPTIONS"))[1] == b"/"


@pytest.mark.parametrize(
    "url",
    [
        b"/",
        b"*",
        b"example.org:80",
        b"//example.org/",
        b"ftp://example.org/",
        b"gopher://example.org/",
        b"file:///etc/passwd",
        b"http:///",
        b"http://:80/",
        b"http://user@example.org/",
        b"http://user:password@example.org/",
        b"http://example.org\\@evil.example/",
        b"http://example.org/#fragment",
        b"http://example.org:0/",
        b"http://example.org:65616/",
        b"http://example.org:http/",
        b"http://[::1/",
        b"http://[example.org]/",
        b"http://0x7f.1/",
        b"http://example.org%00/",
    ],
)
def test_any_other_target_is_refused(url: bytes) -> None:
    with pytest.raises(WireError) as caught:
        absolute_target(get(url))
    assert caught.value.reason is Reason.BAD_REQUEST


def test_a_password_in_the_url_is_not_shown() -> None:
    for head in (get(b"http://user:geheim@example.org/"), connect(b"user:geheim@example.org:80")):
        with pytest.raises(WireError) as caught:
            connect_target(head) if head.method == b"CONNECT" else absolute_target(head)
        assert "geheim" not in caught.value.detail


@pytest.mark.parametrize("scheme", [b"https", b"wss"])
def test_encrypted_urls_go_through_connect(scheme: bytes) -> None:
    with pytest.raises(WireError) as caught:
        absolute_target(get(scheme + b"://example.org/"))
    assert caught.value.reason is Reason.NOT_IMPLEMENTED
    assert "CONNECT" in caught.value.detail


def authorised(*values: bytes) -> Head:
    fields = [b"Proxy-Authorization: " + value for value in values]
    return connect(b"example.org:443", b"Host: example.org", *fields)


def basic(text: bytes) -> bytes:
    return b"Basic " + base64.b64encode(text)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        (b"alice-country-jp:secret", ("alice-country-jp", "secret")),
        (b"alice:", ("alice", "")),
        (b":", ("", "")),
        (b"alice:a:b", ("alice", "a:b")),
        ("älice:sécret".encode(), ("älice", "sécret")),
        (b"a\0b:c\0d", ("a\0b", "c\0d")),
    ],
)
def test_basic_credentials(text: bytes, pair: tuple[str, str]) -> None:
    assert credentials(authorised(basic(text))) == pair
    assert credentials(authorised(b"bAsIc  " + base64.b64encode(text))) == pair


def test_no_credentials() -> None:
    assert credentials(authorised()) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((basic(b"a:b"), basic(b"a:b")), Reason.BAD_REQUEST),
        ((b"Basic !!!",), Reason.BAD_REQUEST),
        ((b"Basic YTpi=",), Reason.BAD_REQUEST),
        ((b"Basic YTp",), Reason.BAD_REQUEST),
        ((b"Basic YT pi",), Reason.BAD_REQUEST),
        ((b"Basic",), Reason.BAD_REQUEST),
        ((basic(b"no colon"),), Reason.BAD_REQUEST),
        ((b"",), Reason.AUTH_REQUIRED),
        ((b"Bearer abc",), Reason.AUTH_REQUIRED),
        ((b'Digest username="a"',), Reason.AUTH_REQUIRED),
    ],
)
def test_malformed_credentials(values: tuple[bytes, ...], reason: Reason) -> None:
    with pytest.raises(WireError) as caught:
        credentials(authorised(*values))
    assert caught.value.reason is reason
    assert not any(value.partition(b" ")[2].decode() in caught.value.detail for value in values if b" " in value)

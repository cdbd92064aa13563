import pytest

from gateway.wire.sniff import PROXY_V2_SIGNATURE, Kind, sniff


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x05\x01\x00", Kind.SOCKS5),
        (b"\x04\x01\x00\x50", Kind.SOCKS4),
        (b"GET http://example.org/ HTTP/1.1\r\n", Kind.HTTP),
        (b"CONNECT example.org:443 HTTP/1.1\r\n", Kind.HTTP),
        (b"PUT http://example.org/", Kind.HTTP),
        (b"PROPFIND http://example.org/", Kind.HTTP),
        (b"PRI * HTTP/2.0\r\n", Kind.HTTP),
        (b"get", Kind.HTTP),
        (b"\r\nGET ", Kind.HTTP),
        (b"PROXY TCP4 ", Kind.PROXY_V1),
        (PROXY_V2_SIGNATURE + b"\x21", Kind.PROXY_V2),
        (b"\x16\x03\x01\x02\x00", Kind.TLS),
        (b"\x16\x04", Kind.UNKNOWN),
        (b"\r\n\r\nGET", Kind.UNKNOWN),
        (b"\r\n GET", Kind.UNKNOWN),
        (b"\r\r\n", Kind.UNKNOWN),
        (b" GET", Kind.UNKNOWN),
        (b"\n", Kind.UNKNOWN),
        (b"\x00", Kind.UNKNOWN),
        (b"\x06\x01", Kind.UNKNOWN),
        (b"\xff", Kind.UNKNOWN),
    ],
)
def test_the_first_bytes_name_the_protocol(data: bytes, kind: Kind) -> None:
    assert sniff(data) is kind
    assert sniff(bytearray(data)) is kind


@pytest.mark.parametrize("data", [b"", b"P", b"PR", b"PROXY", b"\r", b"\r\n", b"\r\n\r\n\x00\r\nQUI", b"\x16"])
def test_more_bytes_are_asked_for_while_it_is_open(data: bytes) -> None:
    assert sniff(data) is None


@pytest.mark.parametrize("first", range(256))
def test_twelve_bytes_always_decide(first: int) -> None:
    assert sniff(bytes([first]) + b"\x00" * 11) is not None

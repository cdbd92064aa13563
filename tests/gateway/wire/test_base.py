from ipaddress import ip_address

import pytest

from gateway.wire.base import Target, WireError, decode_text, parse_host, parse_ipv6, parse_port, shown
from health.reasons import Reason

LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.Org.", "example.org"),
        ("_dmarc.a-b.example", "_dmarc.a-b.example"),
        ("localhost", "localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1e100.net", "1e100.net"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        (LONGEST, LONGEST),
        (LONGEST + ".", LONGEST),
    ],
)
def test_a_name_becomes_lower_case_without_its_final_dot(text: str, host: str) -> None:
    assert parse_host(text) == (host, None)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("198.18.0.1", "198.18.0.1"),
        ("198.18.0.1.", "198.18.0.1"),
        ("2001:2:0:0::1", "2001:2::1"),
        ("::FFFF:7F00:1", str(ip_address("::ffff:127.0.0.1"))),
    ],
)
def test_a_literal_becomes_canonical(text: str, host: str) -> None:
    assert parse_host(text) == (host, ip_address(host))


@pytest.mark.parametrize(
    "text",
    [
        "127.1",
        "0177.0.0.1",
        "0x7f000001",
        "0X7F.0.0.1",
        "2130706433",
        "127.0.0.0x1",
        "127.0.0.01",
        "1.2.3.4.5",
        "256.0.0.1",
        "example.123",
        "example.0x",
        "0",
        "",
        ".",
        "..",
        ".example.org",
        "example..org",
        "example.org..",
        "-example.org",
        "example-.org",
        "exam ple.org",
        "example.org%00",
        "127.0.0.1\0.evil.example",
        "example.org\r",
        "example.org\n",
        "\uff11\uff12\uff17.0.0.1",  # full-width digits
        "bücher.example",
        "user@example.org",
        "example.org/x",
        "[::1]",
        "fe80::1%eth0",
        "::1::",
        "1:2",
        "example.org:80",
        "a" * 256,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_host(text)
    assert caught.value.reason is Reason.BAD_REQUEST
    assert caught.value.detail.isprintable()


@pytest.mark.parametrize("text", ["a" * 255, "a" * 64 + ".example", ".".join(["a" * 63] * 4), LONGEST + "c"])
def test_a_name_too_long_for_the_dns_does_not_exist(text: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_host(text)
    assert caught.value.reason is Reason.NAME_NOT_FOUND


@pytest.mark.parametrize(
    "text", ["0", "-1", "+1", "65536", str(65536 + 80), "080", "https", "", " 80", "8_0", "\uff18\uff10", "1e3"]
)
def test_a_port_is_a_plain_number_from_1_to_65535(text: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_port(text)
    assert caught.value.reason is Reason.BAD_REQUEST
    assert (parse_port("1"), parse_port("65535")) == (1, 65535)


def test_an_ipv6_address_is_no_name_and_no_ipv4_address() -> None:
    for text in ("example.org", "198.18.0.1", "[2001:2::1]", ""):
        with pytest.raises(WireError):
            parse_ipv6(text)


def test_the_authority_of_a_target_puts_ipv6_in_brackets() -> None:
    assert Target("example.org", 443).authority == "example.org:443"
    assert Target("2001:2::1", 443, ip_address("2001:2::1")).authority == "[2001:2::1]:443"


def test_credentials_are_utf8_or_else_single_bytes() -> None:
    assert decode_text("pässwörd".encode()) == "pässwörd"
    assert decode_text("pässwörd".encode("latin-1")) == "pässwörd"
    assert decode_text(bytes(range(256))).encode("latin-1") == bytes(range(256))


def test_what_is_shown_is_short_and_printable() -> None:
    assert shown("\x1b[31mä") == r"'\x1b[31m\xe4'"
    assert len(shown("a" * 10_000)) < 100

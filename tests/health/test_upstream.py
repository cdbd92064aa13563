"""The address of an upstream: what is read, and that what is refused is never shown."""

import pytest

from health.model import Node, UnknownSchemaError
from health.upstream import Scheme, Upstream, parse


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("socks5://10.0.0.2:1080", Upstream(Scheme.SOCKS5, None, "10.0.0.2", 1080, "10.0.0.2:1080")),
        ("http://me@Proxy.example:3128", Upstream(Scheme.HTTP, "me", "proxy.example", 3128, "me@Proxy.example:3128")),
        ("socks5://a-b.c@[2001:db8::1]:1", Upstream(Scheme.SOCKS5, "a-b.c", "2001:db8::1", 1, "a-b.c@[2001:db8::1]:1")),
        ("http://me%40mail.example@h:80", Upstream(Scheme.HTTP, "me@mail.example", "h", 80, "me%40mail.example@h:80")),
        ("socks5://a%3Ab@h:80", Upstream(Scheme.SOCKS5, "a:b", "h", 80, "a%3Ab@h:80")),
    ],
)
def test_read(url: str, expected: Upstream) -> None:
    assert parse(url) == expected
    assert "me" not in parse(url).place


def test_place() -> None:
    assert parse("socks5://a@[2001:db8::1]:1080").place == "socks5://[2001:db8::1]:1080"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "no address of an upstream"),
        ("10.0.0.2:1080", "no address of an upstream"),
        ("socks5://geheim.example", "no address of an upstream"),
        ("socks5://geheim.example:1080/", "no address of an upstream"),
        ("socks5://geheim.example:1080\n", "no address of an upstream"),
        ("https://geheim.example:443", "socks5 or http, not https"),
        ("socks5://geheim.example:0", "port is not from 1 to 65535"),
        ("socks5://geheim.example:65536", "port is not from 1 to 65535"),
        ("socks5://me:geheim@h:1080", "put it into the file"),
        ("socks5://@h:1080", "no name of 1 to 255 bytes"),
        ("socks5://ge heim@h:1080", "no name of 1 to 255 bytes"),
        ("socks5://geheim%00@h:1080", "no name of 1 to 255 bytes"),
        ("socks5://geheim%ff@h:1080", "no name of 1 to 255 bytes"),
        ("socks5://" + "a" * 256 + "@h:1080", "no name of 1 to 255 bytes"),
        ("http://geheim%3Ab@h:80", "no name of 1 to 255 bytes"),
        ("http://geheim..example:80", "neither a name nor an address"),
        ("http://-geheim:80", "neither a name nor an address"),
        ("http://" + "a" * 64 + ":80", "neither a name nor an address"),
        ("http://127.1:80", "malformed address"),
        ("http://256.1.1.1:80", "malformed address"),
        ("http://[::1%eth0]:80", "malformed address"),
        ("http://[127.0.0.1]:80", "malformed address"),
    ],
)
def test_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse(url)
    assert "geheim" not in str(refused.value)


def test_a_record_with_a_password_in_it_is_refused_without_showing_it() -> None:
    good = Node(id="jp000001", country="jp", kind="upstream", machine="m", status="serving", upstream="http://u@h:1")
    assert Node.load(good.dump()) == good
    with pytest.raises(UnknownSchemaError) as refused:
        Node.load(good.dump().replace("http://u@h:1", "http://u:geheim@h:1"))
    assert "geheim" not in str(refused.value)

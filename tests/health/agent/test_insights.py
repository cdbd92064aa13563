"""Who is asked how an exit looks, and what the answer says."""

import pytest

from health.agent.insights import Source, UnknownError, parse, source

GOOD = b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"ip":"198.18.0.9","country_code":"JP"}'


def test_address_and_country() -> None:
    assert parse(GOOD) == ("198.18.0.9", "jp")


def test_the_parts_of_a_url() -> None:
    assert source("https://api.example.com/a/b?c=1") == Source("api.example.com", 443, "/a/b?c=1", tls=True)
    assert source("http://198.18.0.9:8080") == Source("198.18.0.9", 8080, "/", tls=False)


@pytest.mark.parametrize(
    "url", ["", "ftp://a.example/", "http://", "http://a b/", "http://u:p@a.example/", "http://a.example/\r\nX: y", "x"]
)
def test_what_is_no_such_url(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        source(url)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00",
        b"HTTP/1.0 404 Not Found\r\n\r\n" + GOOD.partition(b"\r\n\r\n")[2],
        b"HTTP/1.0 200 OK\r\n\r\n<html>",
        b"HTTP/1.0 200 OK\r\n\r\n[]",
        b'HTTP/1.0 200 OK\r\n\r\n{"ip":"x","country_code":"JP"}',
        b'HTTP/1.0 200 OK\r\n\r\n{"ip":"198.18.0.9","country_code":"Japan"}',
        b'HTTP/1.0 200 OK\r\n\r\n{"ip":"198.18.0.9"}',
        b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 60000,
    ],
)
def test_nonsense_is_not_believed(answer: bytes) -> None:
    with pytest.raises(UnknownError):
        parse(answer)

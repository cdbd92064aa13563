"""Lines of OpenVPN's files split into words."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.providers import ProviderError
from control.providers.ovpn_lexer import directives


def words(text: str) -> list[tuple[int, list[str], str | None]]:
    return list(directives("x.ovpn", text))


def test_words_quotes_comments_and_blocks() -> None:
    text = "\ufeffclient\r\n\n# no\n ; no\n--proto udp ; no\nverify-x509-name \"CN=a b, O='x'\" name\nsetenv opt up x\n"
    assert words(text + "<ca>\n one\r\nup x\n  </ca>\nremote 'a' 1") == [
        (1, ["client"], None),
        (5, ["proto", "udp"], None),
        (6, ["verify-x509-name", "CN=a b, O='x'", "name"], None),
        (7, ["up", "x"], None),
        (8, ["ca"], " one\nup x"),
        (12, ["remote", "a", "1"], None),
    ]


@pytest.mark.parametrize("line", ['"up /bin/sh', "u\\p x", 'a"b"', "'up''x'", "UP x", "</ca>", "=x", "\\", "<CA>"])
def test_what_cannot_be_split_safely_is_refused(line: str) -> None:
    with pytest.raises(ProviderError, match=r"^x\.ovpn line 2 is not understood$"):
        words(f"client\n{line}\n")


def test_bounds() -> None:
    with pytest.raises(ProviderError, match=r"line 1: <ca> has no end"):
        words("<ca>\nx\n")
    with pytest.raises(ProviderError, match=r"line 2 is longer than 4096"):
        words("client\n" + "x" * 4097)


def outcome(read: Callable[..., Any], *given: str) -> Any:
    try:
        return read(*given)
    except ProviderError as error:
        return error


@given(st.text())
def test_any_text_is_words_or_refused(text: str) -> None:
    found = outcome(words, text)
    if isinstance(found, ProviderError):
        assert len(str(found)) < 200
    else:
        assert all(one and "\n" not in "".join(one) for _, one, _ in found)

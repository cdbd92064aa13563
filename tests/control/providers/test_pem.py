"""What is copied into configuration files: PEM and nothing else."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.providers.pem import login, pem

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n"
STATIC_KEY = "-----BEGIN OpenVPN Static key V1-----\n0a1b\n-----END OpenVPN Static key V1-----\n"
STATIC = f"#\n# 2048 bit OpenVPN static key\n#\n{STATIC_KEY}"


def test_what_stands_between_is_left_out() -> None:
    text = f"Certificate:\r\n  Data: x\r\n{CERTIFICATE}\nup /bin/sh\n{CERTIFICATE}"
    assert pem(text) == CERTIFICATE * 2
    assert pem(STATIC) == STATIC_KEY


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no certificate or key"),
        ("-----BEGIN CERTIFICATE-----\nTUlJ\n", "no certificate or key"),
        (
            "-----BEGIN CERTIFICATE-----\n</ca>\n-----END CERTIFICATE-----",
            "what stands in CERTIFICATE is not understood",
        ),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nTUlJ\n-----END ENCRYPTED PRIVATE KEY-----", "has a password"),
        ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----", "has a password"),
    ],
)
def test_what_is_no_pem_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        pem(text)


def outcome(read: Callable[..., Any], *given: str) -> Any:
    try:
        return read(*given)
    except ValueError as error:
        return error


@given(st.text() | st.text().map(lambda text: CERTIFICATE.replace("TUlJ", text)))
def test_any_text_is_safe_or_refused(text: str) -> None:
    found = outcome(pem, text)
    if isinstance(found, ValueError):
        assert len(str(found)) < 120
    else:
        assert re.fullmatch(r"[A-Za-z0-9+/= \n-]*", found)


def test_a_login_is_two_lines() -> None:
    assert login("\ufeffuser\r\npass word\r\n\n") == ("user", "pass word")


@pytest.mark.parametrize("text", ["", "user", "user\n\n", "\npass", "a\nb\nc", "a\x00\nb", "a\n" + "b" * 256])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"two lines|printable"):
        login(text)

"""Tokens: made, recognised, and not by halves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.tokens import id_in, matches, new_token
from health.model import Scope, Token


def test_a_secret_names_its_token_and_matches_it_alone() -> None:
    (one, first), (two, second) = (new_token("ci", Scope.READ, 1.0) for _ in range(2))
    assert id_in(first) == one.id
    assert matches(one, first)
    assert not matches(one, second)
    assert not matches(two, first)
    assert len(first) == 3 + 12 + 1 + 43


def test_the_record_holds_no_secret() -> None:
    token, secret = new_token("ci", Scope.ADMIN, 1.0)
    assert secret[16:] not in token.dump()
    assert token.sha256 not in repr(token)
    assert Token.load(token.dump()) == token


@given(st.text())
def test_what_has_not_the_form_names_nothing(text: str) -> None:
    assert id_in(text) == ""


@pytest.mark.parametrize("change", ["\n", " ", "A"])
def test_nor_does_one_with_something_added(change: str) -> None:
    _, secret = new_token("ci", Scope.READ, 1.0)
    assert id_in(secret + change) == id_in(change + secret) == ""


def test_scopes_include_those_before_them() -> None:
    table = {scope: [other.value for other in Scope if scope.includes(other)] for scope in Scope}
    assert table == {
        Scope.READ: ["read"],
        Scope.OPERATE: ["read", "operate"],
        Scope.ADMIN: ["read", "operate", "admin"],
    }

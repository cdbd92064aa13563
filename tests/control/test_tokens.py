"""Tokens: made, recognised, and not by halves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.tokens import expired, id_in, matches, new_token
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


def test_a_token_is_worth_nothing_from_its_end_on_and_an_old_one_has_none() -> None:
    token, _ = new_token("ci", Scope.READ, 1000.0, 60.0)
    assert [expired(token, now) for now in (0.0, 1059.9, 1060.0, 1e12)] == [False, False, True, True]
    old = Token.load(token.model_copy(update={"expires_at": None}).dump().replace(',"expires_at":null', ""))
    assert not expired(old, 1e12)


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

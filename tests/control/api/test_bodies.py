"""What requests may say: the models themselves."""

import pytest

from control.api.bodies import Body, NodesQuery, PoolBody, ScaleBody, TokenBody, UserBody, UserPatch
from control.api.errors import ApiError
from control.api.reading import checked


def test_a_pool_is_told_what_to_change_and_null_is_no_change_but_where_it_means_something() -> None:
    body = checked(PoolBody, {"desired": None, "max": 2.0, "rotate_hours": None, "version": 3, "fallback": ["UK"]})
    assert body.changes() == {"max": 2, "rotate_hours": None, "fallback": ("gb",)}


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (ScaleBody, {"nodes": True}),
        (ScaleBody, {"nodes": "2"}),
        (PoolBody, {"max": 2.5}),
        (PoolBody, {"desire": 1}),
        (TokenBody, {"name": "ci", "ttl": 59}),
        (TokenBody, {"name": "ci", "ttl": True}),
        (UserPatch, {"name": "bob"}),
    ],
)
def test_what_they_do_not_take(kind: type[Body], given: dict[str, object]) -> None:
    with pytest.raises(ApiError, match=r": ") as refused:
        checked(kind, given)
    assert refused.value.status == 400


def test_a_password_is_not_shown() -> None:
    assert "geheim" not in repr(checked(UserBody, {"name": "bob", "password": "geheim"}))


def test_a_query_has_text_only() -> None:
    assert checked(NodesQuery, {"limit": "5", "country": "uk"}) == NodesQuery(limit=5, country="gb")

"""/api/users: made, changed, removed; a password goes in and never comes out."""

import asyncio
import time
from typing import Any

import pytest
from argon2 import PasswordHasher
from argon2.low_level import Type

from health.limits import Ask, month_of
from health.model import User
from health.registry import Registry
from tests.control.api.conftest import Client


async def test_users_are_stored_as_argon2id_and_shown_without_it(ask: Client, registry: Registry) -> None:
    body = {"name": "alice", "password": "p:ä ss", "allowed_countries": ["jp", "uk"], "default_country": "gb"}
    made = await ask("POST", "/api/users", 201, json=body)
    unlimited = dict.fromkeys(("max_connections", "bytes_per_second", "monthly_bytes", "month_bytes"))
    assert made == {"name": "alice", "allowed_countries": ["jp", "gb"], "default_country": "gb"} | unlimited
    assert await ask("GET", "/api/users") == [made]
    assert await ask("GET", "/api/users/alice") == made
    stored = (await registry.users())["alice"].password_hash
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PasswordHasher(type=Type.ID).verify(stored, "p:ä ss")
    assert (await ask("POST", "/api/users", 409, json=body))["reason"] == "exists"
    assert (await ask("DELETE", "/api/users/alice"))["status"] == "deleted"
    assert await ask("GET", "/api/users") == []


async def test_limits_of_a_user_and_what_he_moved_this_month(ask: Client, registry: Registry) -> None:
    limits = {"max_connections": 20, "bytes_per_second": 1024, "monthly_bytes": 10**15}
    made = await ask("POST", "/api/users", 201, json={"name": "alice", "password": "x"} | limits)
    stored = (await registry.users())["alice"]
    assert made.items() >= limits.items() <= stored.model_dump().items()
    report = Ask("alice", "w1", "m1", month_of(time.time()), 20, 1024, 10**15, 0, 0, "", 12345, 12345, 0)
    await registry.renew_limits([report])
    assert await ask("GET", "/api/users") == [made | {"month_bytes": 12345}]
    assert (await ask("GET", "/api/users/alice"))["month_bytes"] == 12345


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_connections", 0),
        ("max_connections", "20"),
        ("max_connections", 1.5),
        ("bytes_per_second", 1023),
        ("bytes_per_second", True),
        ("monthly_bytes", 0),
        ("monthly_bytes", -1),
        ("monthly_bytes", 10**15 + 1),
    ],
)
async def test_limits_that_cannot_be(ask: Client, field: str, value: Any) -> None:
    refused = await ask("POST", "/api/users", 400, json={"name": "alice", "password": "x", field: value})
    assert field in refused["detail"]
    assert await ask("GET", "/api/users") == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": "alice"},
        {"name": "a-b", "password": "long enough"},
        {"name": "", "password": "long enough"},
        {"name": "alice", "password": ""},
        {"name": "alice", "password": "a\x00b"},
        {"name": "alice", "password": "x" * 256},
        {"name": "alice", "password": 12345678},
        {"name": "alice", "password": "good", "allowed_countries": ["jp"], "default_country": "us"},
    ],
)
async def test_users_that_cannot_be(ask: Client, body: dict[str, Any]) -> None:
    refused = await ask("POST", "/api/users", 422 if "default_country" in body else 400, json=body)
    assert "long enough" not in refused["detail"]
    assert await ask("GET", "/api/users") == []


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_user_is_changed_field_by_field(ask: Client, registry: Registry, method: str) -> None:
    await ask("POST", "/api/users", 201, json={"name": "bob", "password": "old", "max_connections": 5})
    before = (await registry.users())["bob"].password_hash
    changed = await ask(method, "/api/users/bob", json={"monthly_bytes": 7, "allowed_countries": ["uk"]})
    assert (changed["max_connections"], changed["monthly_bytes"], changed["allowed_countries"]) == (5, 7, ["gb"])
    assert (await registry.users())["bob"].password_hash == before
    lifted = await ask(method, "/api/users/bob", json={"max_connections": None, "allowed_countries": []})
    assert (lifted["max_connections"], lifted["monthly_bytes"], lifted["allowed_countries"]) == (None, 7, [])
    await ask(method, "/api/users/bob", json={"password": "new"})
    assert PasswordHasher(type=Type.ID).verify((await registry.users())["bob"].password_hash, "new")
    await ask(method, "/api/users/bob", json={"default_country": "jp"})
    assert (await ask(method, "/api/users/bob", 422, json={"allowed_countries": ["us"]}))["reason"] == "contradiction"
    await ask(method, "/api/users/nobody", 404, json={})
    await ask(method, "/api/users/bob", 400, json={"name": "carol"})


async def test_a_user_is_changed_only_if_it_is_the_one_that_was_read(api: Any, ask: Client) -> None:
    await ask("POST", "/api/users", 201, json={"name": "bob", "password": "old"})
    tag = (await api.get("/api/users/bob")).headers["ETag"]
    changed = await api.patch("/api/users/bob", json={"password": "new"}, headers={"If-Match": tag})
    assert changed.headers["ETag"] != tag, "another password is another version"
    stale = await ask("PATCH", "/api/users/bob", 409, json={"max_connections": 1}, headers={"If-Match": tag})
    assert stale["reason"] == "stale_version"
    assert (await ask("DELETE", "/api/users/bob", 409, headers={"If-Match": tag}))["reason"] == "stale_version"
    await ask("DELETE", "/api/users/bob", headers={"If-Match": changed.headers["ETag"]})


async def test_a_user_that_is_changed_while_it_is_being_removed_stays(
    ask: Client, registry: Registry, monkeypatch: pytest.MonkeyPatch, fleet: Any
) -> None:
    await ask("POST", "/api/users", 201, json={"name": "bob", "password": "old"})
    remove = fleet.registry.removal.user

    async def late(user: User) -> bool:
        await registry.swap_user(user.model_copy(update={"max_connections": 3}), user)
        return bool(await remove(user))

    monkeypatch.setattr(fleet.registry.removal, "user", late)
    assert (await ask("DELETE", "/api/users/bob", 409))["reason"] == "stale_version"
    assert (await registry.users())["bob"].max_connections == 3


async def test_of_many_who_add_the_same_user_at_once_one_does(api: Any) -> None:
    answers = await asyncio.gather(
        *(api.post("/api/users", json={"name": "bob", "password": f"p{number}"}) for number in range(6))
    )
    assert sorted(answer.status for answer in answers) == [201, *[409] * 5]


async def test_what_is_wrong_is_said_in_plain_words(ask: Any) -> None:
    alice = {"name": "alice", "password": "x"}
    contradiction = alice | {"allowed_countries": ["jp"], "default_country": "us"}
    told = [
        (await ask("POST", "/api/users", 400, json=alice | {"password": ""}))["detail"],
        (await ask("POST", "/api/users", 400, json=alice | {"default_country": "xx"}))["detail"],
        (await ask("POST", "/api/users", 422, json=contradiction))["detail"],
    ]
    assert told[0] == "password: 1 to 255 bytes of UTF-8, without control characters"
    assert told[1].startswith("default_country: unknown country 'xx'")
    assert told[2] == "default_country is not among allowed_countries"

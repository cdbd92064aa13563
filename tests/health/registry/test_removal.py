"""Records go only as long as they are what the remover saw."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest

from health.model import Pool, User
from health.registry import PREFIX, Registry

ALICE = User(name="alice", password_hash="x")


async def test_a_user_goes_if_nobody_changed_it(registry: Registry) -> None:
    await registry.put_user(ALICE)
    changed = ALICE.model_copy(update={"password_hash": "y"})
    assert await registry.swap_user(changed, ALICE)
    assert not await registry.removal.user(ALICE)
    assert await registry.users() == {"alice": changed}
    assert await registry.removal.user(changed)
    assert await registry.removal.user(changed), "asked again after a time-out it says the same"
    assert await registry.users() == {}


async def test_one_that_is_changed_between_look_and_removal_stays(
    registry: Registry, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.put_user(ALICE)
    changed = ALICE.model_copy(update={"password_hash": "y"})
    get = registry.removal._redis.get

    async def late(key: str) -> Any:
        found = await get(key)
        raw.set(key, changed.dump())
        return found

    monkeypatch.setattr(registry.removal._redis, "get", late)
    assert not await registry.removal.user(ALICE)
    assert await registry.users() == {"alice": changed}


async def test_a_pool_goes_with_its_name_and_everybody_hears_of_it(registry: Registry) -> None:
    old = await registry.put_pool(Pool(country="jp"))
    new = await registry.put_pool(old.model_copy(update={"max": 3}))
    assert not await registry.removal.pool(old)

    subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with aclosing(registry.events(lambda: subscribed.set_result(None))) as events, asyncio.timeout(20):
        heard = asyncio.create_task(anext(events))
        await subscribed
        assert await registry.removal.pool(new)
        assert (await heard).items() >= {"kind": "pool", "subject": "jp"}.items()
    assert await registry.pools() == {}


async def test_a_record_that_says_the_same_in_other_bytes_goes_too(registry: Registry, raw: Any) -> None:
    await registry.put_user(ALICE)
    short = json.dumps({"schema": 1, "name": "alice", "password_hash": "x"})
    raw.set(f"{PREFIX}user:alice", short)
    assert await registry.removal.user(ALICE)


async def test_a_newer_writers_record_stays(registry: Registry, raw: Any) -> None:
    await registry.put_user(ALICE)
    raw.set(f"{PREFIX}user:alice", '{"schema": 2}')
    assert not await registry.removal.user(ALICE)

"""Users, tokens and sessions against a real Redis."""

import asyncio
import json
from typing import Any

from health.model import Token, User
from health.registry import PREFIX, Registry


async def test_tokens(registry: Registry) -> None:
    token = Token(id="0123456789ab", name="ci", scope="operate", sha256="ab" * 32, created_at=1.0)
    await registry.put_token(token)
    assert await registry.token(token.id) == token
    assert await registry.tokens() == {token.id: token}
    await registry.delete_token(token.id)
    assert await registry.token(token.id) is None
    assert await registry.tokens() == {}


async def test_a_user_is_swapped_only_for_the_expected_one(registry: Registry) -> None:
    first, second = User(name="bob", password_hash="x"), User(name="bob", password_hash="x", max_connections=2)
    assert await registry.swap_user(first, None)
    assert await registry.swap_user(first, None), "asked again after a time-out"
    assert not await registry.swap_user(second, None)
    assert await registry.swap_user(second, first)
    assert not await registry.swap_user(first.model_copy(update={"max_connections": 3}), first)
    assert await registry.users() == {"bob": second}


async def test_users(registry: Registry) -> None:
    alice = User(name="alice", password_hash="$argon2id$…", allowed_countries=("jp",))
    await registry.put_user(alice)
    assert await registry.users() == {"alice": alice}
    await registry.delete_user("alice")
    assert await registry.users() == {}


async def test_the_first_writer_puts_a_session_on_its_node(registry: Registry, raw: Any) -> None:
    key = PREFIX + "session:bob:s1"
    assert await registry.pin_session("bob", "s1", "jp000001", 60) == "jp000001"
    assert json.loads(raw.get(key)) == {"schema": 1, "node": "jp000001"}
    assert 50_000 < raw.pttl(key) <= 60_000
    assert await registry.pin_session("bob", "s1", "jp000002", 600) == "jp000001"
    assert raw.pttl(key) <= 60_000, "somebody else's session lives no longer for being asked about"
    assert await registry.pin_session("bob", "s1", "jp000001", 600) == "jp000001"
    assert raw.pttl(key) > 500_000
    assert await registry.pin_session("eve", "s1", "jp000002", 60) == "jp000002"
    assert await registry.pin_session("", "s1", "us000001", 60) == "us000001"


async def test_a_session_moves_only_from_where_it_is(registry: Registry, raw: Any) -> None:
    await registry.pin_session("bob", "s1", "jp000001", 60)
    assert await registry.pin_session("bob", "s1", "jp000003", 60, replaces="jp000002") == "jp000001"
    assert await registry.pin_session("bob", "s1", "jp000002", 60, replaces="jp000001") == "jp000002"
    assert await registry.pin_session("bob", "s1", "jp000003", 60, replaces="jp000001") == "jp000002"
    assert json.loads(raw.get(PREFIX + "session:bob:s1"))["node"] == "jp000002"


async def test_of_many_gateways_one_places_a_session(registry: Registry) -> None:
    placed = await asyncio.gather(*(registry.pin_session("bob", "s", f"jp{n:06x}", 60) for n in range(32)))
    assert len(set(placed)) == 1


async def test_a_session_expires(registry: Registry) -> None:
    await registry.pin_session("bob", "s1", "jp000001", 0.05)
    async with asyncio.timeout(20):
        while await registry.pin_session("bob", "s1", "jp000002", 60) == "jp000001":
            await asyncio.sleep(0.01)


async def test_a_session_record_of_a_newer_schema_stays(registry: Registry, raw: Any) -> None:
    newer = '{"schema":2,"nodes":["jp000001"]}'
    raw.set(PREFIX + "session:bob:s1", newer)
    assert await registry.pin_session("bob", "s1", "jp000002", 60, replaces="jp000001") == "jp000002"
    assert raw.get(PREFIX + "session:bob:s1") == newer

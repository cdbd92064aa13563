"""Every method of the registry against a real Redis."""

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from health.config import RedisSettings
from health.model import Node, Pool, Sample, Score, Token, Tunnel, User
from health.registry import PREFIX, Registry, RegistryError, Snapshot, StaleVersionError

MakeNode = Callable[..., Node]


def sample(node: str = "jp3f9a1c", **fields: Any) -> Sample:
    return Sample(node=node, at=5.0, reachable=True, tunnel=Tunnel.UP, kill_switch=True, **fields)


def score(node: str = "jp3f9a1c") -> Score:
    return Score(node=node, at=5.0, value=81.5, healthy=True, terms={"latency": 0.8}, latency_ms=40.0)


async def test_ping(registry: Registry) -> None:
    await registry.ping()


async def test_what_the_server_says_of_itself(redis_server: Any) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url))
    try:
        said = await registry.server()
        assert (said["role"], said["maxmemory_policy"], said["save"]) == ("master", "noeviction", "")
        assert redis_server.command("ACL", "SETUSER", "default", "-config") == "+OK"
        assert "save" not in await registry.server()
    finally:
        await registry.close()


async def test_nodes_are_put_read_and_deleted(registry: Registry, raw: Any, make_node: MakeNode) -> None:
    jp, us = make_node(), make_node("us000001", machine="m2")
    assert await registry.nodes() == {}
    await registry.put_node(jp)
    await registry.put_node(us)
    assert await registry.nodes() == {jp.id: jp, us.id: us}
    assert await registry.node(jp.id) == jp
    assert raw.ttl(PREFIX + f"node:{jp.id}") == -1
    assert json.loads(raw.get(PREFIX + f"node:{jp.id}"))["schema"] == 1
    await registry.delete_node(jp.id)
    assert await registry.node(jp.id) is None
    assert await registry.nodes() == {us.id: us}


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


async def test_pool_versions(registry: Registry) -> None:
    first = await registry.put_pool(Pool(country="jp", desired=2))
    assert first.version == 1
    second = await registry.put_pool(first.model_copy(update={"desired": 3}))
    assert await registry.pool("jp") == second
    with pytest.raises(StaleVersionError, match="version is 2") as caught:
        await registry.put_pool(first)
    assert caught.value.current == 2
    with pytest.raises(StaleVersionError):
        await registry.put_pool(Pool(country="jp"))
    with pytest.raises(StaleVersionError) as caught:
        await registry.put_pool(Pool(country="us", version=7))
    assert caught.value.current == 0
    assert await registry.pools() == {"jp": second}


async def test_of_many_writers_one_wins(registry: Registry) -> None:
    writes = (registry.put_pool(Pool(country="jp", desired=n)) for n in range(8))
    done = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(result, Pool) for result in done) == 1
    assert sum(isinstance(result, StaleVersionError) for result in done) == 7


@pytest.mark.parametrize("stored", ['{"schema":2,"version":0}', "rubbish", "7"])
async def test_pool_of_another_schema_is_neither_read_nor_overwritten(
    registry: Registry, raw: Any, stored: str
) -> None:
    raw.set(PREFIX + "pool:jp", stored)
    raw.sadd(PREFIX + "pools", "jp")
    assert await registry.pools() == {}
    with pytest.raises(RegistryError, match="another version"):
        await registry.put_pool(Pool(country="jp"))
    assert raw.get(PREFIX + "pool:jp") == stored


@pytest.mark.parametrize(
    "stored",
    [
        b'{"schema":2,"id":"jp000002"}',
        b"rubbish",
        b"\xff\xfe",
        b"[]",
        b'{"schema":1,"id":"jp000002"}',
        b'{"schema":1,"id":"jp000002","country":"xx","kind":"vpn","machine":"m","status":"serving"}',
    ],
)
async def test_unknown_records_are_left_out_and_the_rest_is_read(
    registry: Registry, raw: Any, make_node: MakeNode, stored: bytes
) -> None:
    await registry.put_node(make_node())
    raw.set(PREFIX + "node:jp000002", stored)
    raw.sadd(PREFIX + "nodes", "jp000002")
    await registry.begin_epoch()
    assert list(await registry.nodes()) == ["jp3f9a1c"]
    assert list((await registry.snapshot()).nodes) == ["jp3f9a1c"]


async def test_newer_fields_are_ignored(registry: Registry, raw: Any, make_node: MakeNode) -> None:
    node = make_node()
    raw.set(PREFIX + f"node:{node.id}", json.dumps({**json.loads(node.dump()), "colour": "blue"}))
    assert await registry.node(node.id) == node


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1"])
async def test_a_stored_sample_that_is_no_number_is_left_out(registry: Registry, raw: Any, number: str) -> None:
    text = sample().dump().replace('"loss":0.0', f'"loss":{number}')
    assert number in text
    raw.set(PREFIX + "sample:jp3f9a1c", text)
    assert await registry.samples(["jp3f9a1c"]) == {}


async def test_samples_expire_after_the_sign_of_life(registry: Registry, raw: Any) -> None:
    one, other = sample(probe_ms=31.5), sample("us000001")
    await registry.put_samples("m1", [one, other])
    assert await registry.samples([one.node, other.node, "gb000001"]) == {one.node: one, other.node: other}
    assert await registry.samples([]) == {}
    assert await registry.collectors(["m1", "m2"]) == {"m1"}
    assert await registry.collectors([]) == set()
    life, kept = raw.pttl(PREFIX + "lease:collector:m1"), raw.pttl(PREFIX + f"sample:{one.node}")
    assert 0 < life <= 4000 < kept <= 5000


async def test_a_collector_without_nodes_lives(registry: Registry) -> None:
    await registry.put_samples("m1", [])
    assert await registry.collectors(["m1"]) == {"m1"}


async def test_scores(registry: Registry, raw: Any) -> None:
    await registry.put_scores([score(), score("us000001")])
    assert await registry.scores(["jp3f9a1c", "gb000001"]) == {"jp3f9a1c": score()}
    assert 595 < raw.ttl(PREFIX + "score:jp3f9a1c") <= 600


async def test_epoch_begins_once(registry: Registry) -> None:
    assert await registry.epoch() == ""
    await registry.begin_epoch()
    epoch = await registry.epoch()
    assert len(epoch) == 16
    await registry.begin_epoch()
    assert await registry.epoch() == epoch


async def test_snapshot_is_empty_without_epoch_and_full_with_it(registry: Registry, make_node: MakeNode) -> None:
    node, user = make_node(), User(name="bob", password_hash="x")
    await registry.put_node(node)
    await registry.put_user(user)
    pool = await registry.put_pool(Pool(country="jp", desired=1))
    await registry.put_scores([score()])
    assert await registry.snapshot() == Snapshot(epoch="")
    await registry.begin_epoch()
    assert await registry.snapshot() == Snapshot(
        epoch=await registry.epoch(),
        nodes={node.id: node},
        scores={node.id: score()},
        pools={"jp": pool},
        users={"bob": user},
    )


async def test_snapshot_of_an_empty_fleet_has_its_epoch(registry: Registry) -> None:
    await registry.begin_epoch()
    assert await registry.snapshot() == Snapshot(epoch=await registry.epoch())


@pytest.mark.parametrize("left", [None, "another"])
async def test_snapshot_torn_by_an_emptied_redis_is_none_at_all(
    registry: Registry, raw: Any, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, left: str | None
) -> None:
    await registry.put_node(make_node())
    await registry.begin_epoch()
    read = registry._redis.mget

    async def emptied_before(keys: list[str]) -> Any:
        raw.flushall()
        if left is not None:
            raw.set(PREFIX + "epoch", left)
        return await read(keys)

    monkeypatch.setattr(registry._redis, "mget", emptied_before)
    assert await registry.snapshot() == Snapshot(epoch="")


async def test_lease_is_one_holders_until_released_or_over(registry: Registry, raw: Any) -> None:
    assert await registry.acquire("scorer", "a", 30)
    assert not await registry.acquire("scorer", "b", 30)
    assert await registry.acquire("scorer", "a", 60)
    assert 30_000 < raw.pttl(PREFIX + "lease:scorer") <= 60_000
    assert await registry.acquire("control", "b", 30)
    await registry.release("scorer", "b")
    assert not await registry.acquire("scorer", "b", 30)
    await registry.release("scorer", "a")
    assert await registry.acquire("scorer", "b", 0.05)
    async with asyncio.timeout(5):
        while not await registry.acquire("scorer", "a", 30):
            await asyncio.sleep(0.01)
    await registry.release("nobody", "a")


async def test_of_many_candidates_one_leads(registry: Registry) -> None:
    got = await asyncio.gather(*(registry.acquire("scorer", str(n), 30) for n in range(16)))
    assert sum(got) == 1


async def test_every_change_is_told(registry: Registry, make_node: MakeNode) -> None:
    async with aclosing(registry.events()) as events:
        first = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(10):
            while not first.done():
                await registry.publish("hello", "jp", more=1)
                await asyncio.sleep(0.01)
        assert await first == {"schema": 1, "kind": "hello", "subject": "jp", "more": 1}
        await registry.put_node(make_node())
        await registry.delete_node("jp3f9a1c")
        await registry.put_pool(Pool(country="us"))
        await registry.put_user(User(name="bob", password_hash="x"))
        await registry.delete_user("bob")
        await registry.put_scores([])
        await registry.begin_epoch()
        told = []
        async with asyncio.timeout(10):
            async for event in events:
                if event["kind"] != "hello":
                    told.append((event["kind"], event["subject"]))
                if event["kind"] == "epoch":
                    break
    assert told == [
        ("node", "jp3f9a1c"),
        ("node", "jp3f9a1c"),
        ("pool", "us"),
        ("user", "bob"),
        ("user", "bob"),
        ("scores", ""),
        ("epoch", ""),
    ]


async def test_rubbish_on_the_channel_is_passed_over(registry: Registry, raw: Any) -> None:
    async with aclosing(registry.events()) as events:
        first = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(10):
            while not first.done():
                raw.publish(PREFIX + "events", b"\xffnot json")
                raw.publish(PREFIX + "events", '"only a text"')
                raw.publish(PREFIX + "events", '{"kind":"x"}')
                await asyncio.sleep(0.01)
        assert await first == {"kind": "x"}


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
    async with asyncio.timeout(5):
        while await registry.pin_session("bob", "s1", "jp000002", 60) == "jp000001":
            await asyncio.sleep(0.01)


async def test_a_session_record_of_a_newer_schema_stays(registry: Registry, raw: Any) -> None:
    newer = '{"schema":2,"nodes":["jp000001"]}'
    raw.set(PREFIX + "session:bob:s1", newer)
    assert await registry.pin_session("bob", "s1", "jp000002", 60, replaces="jp000001") == "jp000002"
    assert raw.get(PREFIX + "session:bob:s1") == newer

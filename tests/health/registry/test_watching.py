"""Snapshots and events against a real Redis."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from health.model import Node, NodeStatus, Pool, Sample, Score, Tunnel, User
from health.registry import PREFIX, Registry, Snapshot

MakeNode = Callable[..., Node]


def sample(node: str = "jp3f9a1c", **fields: Any) -> Sample:
    return Sample(node=node, at=5.0, reachable=True, tunnel=Tunnel.UP, kill_switch=True, **fields)


def score(node: str = "jp3f9a1c") -> Score:
    return Score(node=node, at=5.0, value=81.5, healthy=True, terms={"latency": 0.8}, latency_ms=40.0)


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
        sequence=4,
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


async def test_every_change_is_told(registry: Registry, make_node: MakeNode) -> None:
    async with aclosing(registry.events()) as events:
        first = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(30):
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
        async with asyncio.timeout(30):
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
        async with asyncio.timeout(30):
            while not first.done():
                raw.publish(PREFIX + "events", b"\xffnot json")
                raw.publish(PREFIX + "events", '"only a text"')
                raw.publish(PREFIX + "events", '{"kind":"x"}')
                await asyncio.sleep(0.01)
        assert await first == {"kind": "x"}


async def test_every_change_of_a_snapshot_counts(registry: Registry, make_node: MakeNode) -> None:
    node, expected = make_node(status="starting", slot="jp-0"), 0

    async def counted() -> bool:
        nonlocal expected
        expected += 1
        return await registry.state() == ("", expected)

    assert await registry.claim_slot("jp-0", node, "")
    assert await counted()
    assert await registry.advance_node(make_node(slot="jp-0"), NodeStatus.STARTING)
    assert await counted()
    pool = await registry.put_pool(Pool(country="jp"))
    assert await counted()
    assert await registry.retire(pool, make_node(retire="old"), NodeStatus.SERVING)
    assert await counted()
    assert await registry.swap_user(User(name="bob", password_hash="x"), None)
    assert await counted()
    await registry.delete_user("bob")
    assert await counted()
    await registry.put_node(node)
    assert await counted()
    await registry.delete_node(node.id)
    assert await counted()
    await registry.put_scores([score()])
    assert await counted()
    assert not await registry.advance_node(node, NodeStatus.STARTING)
    await registry.put_samples("m1", [])
    assert await registry.state() == ("", expected)


async def test_gateways_are_told_scores_and_that_something_changed(registry: Registry, make_node: MakeNode) -> None:
    subscribed = asyncio.Event()
    async with aclosing(registry.changes(subscribed.set)) as changes:
        first = asyncio.ensure_future(anext(changes))
        await subscribed.wait()
        await registry.put_scores([score()])
        told = await first
        assert told is not None
        assert (told.sequence, told.scores) == (1, (score().model_copy(update={"terms": {}}),))
        await registry.put_node(make_node())
        assert await anext(changes) is None


async def test_what_did_not_change_is_not_read_anew(registry: Registry, make_node: MakeNode) -> None:
    await registry.put_node(make_node())
    await registry.put_node(make_node("us000001"))
    await registry.begin_epoch()
    first = await registry.snapshot()
    await registry.put_node(make_node(city="Osaka"))
    await registry.delete_node("us000001")
    await registry.put_node(make_node("us000002"))
    second = await registry.snapshot()
    assert second.nodes["jp3f9a1c"].city == "Osaka"
    assert second.nodes.keys() == {"jp3f9a1c", "us000002"}
    third = await registry.snapshot()
    assert all(third.nodes[name] is node for name, node in second.nodes.items())
    assert first.nodes["jp3f9a1c"].city == ""

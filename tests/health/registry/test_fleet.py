"""Nodes and pools against a real Redis."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from health.model import Node, Pool
from health.registry import PREFIX, Registry, RegistryError, StaleVersionError

MakeNode = Callable[..., Node]


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

"""The picture of the fleet: read once for all who ask, anew when something changed."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from control.api.board import MAX_AGE_S, Board, Body, joined
from control.api.feed import Feed
from health.model import Node, NodeKind, NodeStatus
from health.registry import Registry


def node(number: int) -> Node:
    return Node(
        id=f"jp{number:06x}",
        country="jp",
        kind=NodeKind.VPN,
        machine="m",
        status=NodeStatus.SERVING,
        requested_at=number,
    )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def board(fleet: Any, registry: Registry, clock: Clock) -> AsyncIterator[Board]:
    await registry.begin_epoch()
    feed = Feed(registry)
    made = Board(fleet.fleet, registry, feed, clock)
    async with feed.running():
        async with asyncio.timeout(15):
            while not feed.alive:
                await asyncio.sleep(0.005)
        yield made


async def test_it_is_read_once_while_nothing_changes(board: Board, clock: Clock) -> None:
    first = await board.picture()
    assert await board.picture() is first
    assert await asyncio.gather(*(board.picture() for _ in range(50))) == [first] * 50
    assert board.readings == 1
    clock.now = MAX_AGE_S + 0.1
    assert await board.picture() is not first
    assert board.readings == 2


async def test_all_who_ask_at_once_wait_for_one_reading(board: Board) -> None:
    pictures = await asyncio.gather(*(board.picture() for _ in range(50)))
    assert all(picture is pictures[0] for picture in pictures)
    assert board.readings == 1


async def test_a_change_during_a_reading_is_not_missed(board: Board, registry: Registry) -> None:
    reading = asyncio.create_task(board.picture())
    await asyncio.sleep(0)
    await registry.put_node(node(1))
    board.forget()
    assert [found.id for found, _ in (await board.picture()).nodes] == ["jp000001"]
    await reading


async def test_an_event_makes_it_old_and_an_audit_does_not(board: Board, registry: Registry) -> None:
    first = await board.picture()
    await registry.publish("audit", "x")
    await asyncio.sleep(0.05)
    assert board.fresh() is first
    await registry.put_node(node(1))
    async with asyncio.timeout(15):
        while board.fresh() is first:
            await asyncio.sleep(0)
    assert len((await board.picture()).nodes) == 1


async def test_without_events_nothing_is_remembered(fleet: Any, registry: Registry) -> None:
    await registry.begin_epoch()
    board = Board(fleet.fleet, registry, Feed(registry))
    await board.picture()
    await registry.put_node(node(1))
    assert len((await board.picture()).nodes) == 1


async def test_a_reading_that_fails_fails_for_all_and_the_next_is_tried(
    board: Board, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("once")

    with monkeypatch.context() as patch:
        patch.setattr(fleet.fleet, "snapshot", broken)
        found = await asyncio.gather(*(board.picture() for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [RuntimeError] * 3
    assert (await board.picture()).nodes == ()


def test_pieces_are_joined_to_json() -> None:
    assert json.loads(joined([])) == []
    assert json.loads(joined([b'{"a":1}', b"2"])) == [{"a": 1}, 2]


def test_small_lists_are_not_packed_and_equal_ones_have_equal_tags() -> None:
    small, large = Body.of(b"[]", 0), Body.of(b"[" + b"1," * 2000 + b"1]", 2001)
    assert small.packed is small.plain
    assert len(large.packed.body) < len(large.plain.body)
    assert Body.of(b"[]", 0).etag == small.etag != large.etag
    assert large.plain.fields["X-Total-Count"] == "2001"

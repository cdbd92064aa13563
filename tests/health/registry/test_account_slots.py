"""The ledger on a real Redis: a session is held by one node, also when many ask at once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from health.config import RedisSettings
from health.model import Node, NodeStatus
from health.registry import Registry, RegistryError
from health.registry.account_slots import FORGIVEN, WORST, Answer, faded


def name(number: int) -> str:
    return f"jp{number:06x}"


async def test_many_at_once_get_what_there_is(registry: Registry, redis_url: str) -> None:
    other = Registry.open(RedisSettings(url=redis_url, timeout=2))
    try:
        asked = [
            one.accounts.take("main", 10, name(number), f"jp{number}.x")
            for number in range(40)
            for one in ((registry, other)[number % 2],)
        ]
        answers = await asyncio.gather(*asked)
    finally:
        await other.close()
    assert [answer for answer, _ in answers].count(Answer.HELD) == 10
    assert [answer for answer, _ in answers].count(Answer.FULL) == 30
    held = (await registry.accounts.read({"main": 10})).held["main"]
    assert sorted(held) == list(range(10))
    assert len({holder.node for holder in held.values()}) == 10


async def test_asking_again_is_answered_as_before(registry: Registry) -> None:
    for _ in range(3):
        assert await registry.accounts.take("main", 2, name(1), "a.x") == (Answer.HELD, "")
    assert list((await registry.accounts.read({"main": 2})).held["main"]) == [0]


async def test_a_server_has_one_node_of_an_account(registry: Registry) -> None:
    assert await registry.accounts.take("main", 5, name(1), "a.x") == (Answer.HELD, "")
    assert await registry.accounts.take("main", 5, name(2), "a.x") == (Answer.SERVER, name(1))
    assert await registry.accounts.take("other", 5, name(2), "a.x") == (Answer.HELD, "")


async def test_who_runs_already_comes_first(registry: Registry) -> None:
    present = [(name(1), "a.x"), (name(2), "b.x")]
    assert await registry.accounts.take("main", 2, name(3), "c.x", present) == (Answer.FULL, "")
    assert await registry.accounts.take("main", 3, name(3), "a.x", present) == (Answer.SERVER, name(1))
    assert await registry.accounts.take("main", 3, name(3), "c.x", present) == (Answer.HELD, "")
    held = (await registry.accounts.read({"main": 3})).held["main"]
    assert [(holder.node, holder.server) for holder in held.values()] == [*present, (name(3), "c.x")]


async def test_refilling_takes_no_more_than_there_is(registry: Registry) -> None:
    await registry.accounts.refill("main", 2, [(name(number), f"{number}.x") for number in range(5)])
    await registry.accounts.refill("main", 2, [(name(0), "0.x")])
    assert [one.node for one in (await registry.accounts.read({"main": 2})).held["main"].values()] == [name(0), name(1)]


async def test_a_session_is_freed_by_its_holder_alone_and_once(registry: Registry) -> None:
    await registry.accounts.take("main", 1, name(1), "a.x")
    assert not await registry.accounts.free("main", 0, name(2))
    assert not await registry.accounts.free("main", 0, name(1), held_for=30)
    answers = await asyncio.gather(*(registry.accounts.free("main", 0, name(1)) for _ in range(5)))
    assert answers.count(True) == 1
    assert await registry.accounts.take("main", 1, name(2), "a.x") == (Answer.HELD, "")


async def test_the_session_of_a_node_that_lives_by_its_record_is_not_freed(
    registry: Registry, make_node: Callable[..., Node]
) -> None:
    await registry.accounts.take("main", 1, "jp3f9a1c", "a.x")
    await registry.put_node(make_node("jp3f9a1c"))
    assert not await registry.accounts.free("main", 0, "jp3f9a1c")
    await registry.put_node(make_node("jp3f9a1c", status=NodeStatus.FAILED))
    assert await registry.accounts.free("main", 0, "jp3f9a1c")


async def test_an_account_that_rests_starts_nothing_and_keeps_what_it_has(registry: Registry, raw: Any) -> None:
    await registry.accounts.take("main", 5, name(1), "a.x")
    await registry.accounts.rest("main", "AUTH_FAILED", 600)
    assert await registry.accounts.take("main", 5, name(2), "b.x") == (Answer.RESTING, "AUTH_FAILED")
    assert await registry.accounts.take("main", 5, name(1), "a.x") == (Answer.RESTING, "AUTH_FAILED")
    assert await registry.accounts.take("other", 5, name(2), "b.x") == (Answer.HELD, "")
    book = await registry.accounts.read({"main": 5, "other": 5})
    assert [holder.node for holder in book.held["main"].values()] == [name(1)]
    reason, seconds = book.resting["main"]
    assert reason == "AUTH_FAILED"
    assert 590 < seconds <= 600
    assert 590_000 < raw.pttl("vx:1:gate:main") <= 600_000


async def test_a_rest_ends(registry: Registry) -> None:
    await registry.accounts.rest("main", "AUTH_FAILED", 0.02)
    deadline = asyncio.get_running_loop().time() + 5
    while (await registry.accounts.take("main", 1, name(1), "a.x"))[0] is not Answer.HELD:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_penalties_add_up_to_a_limit_and_fade(registry: Registry, raw: Any) -> None:
    await registry.accounts.penalise("a.x")
    assert (await registry.accounts.penalties())["a.x"] == pytest.approx(1, abs=0.01)
    for _ in range(20):
        await registry.accounts.penalise("b.x")
    assert (await registry.accounts.penalties())["b.x"] == pytest.approx(WORST, abs=0.01)
    raw.hset("vx:1:penalties", "old.x", '{"schema": 1, "weight": 1, "at": 1}')
    assert "old.x" not in await registry.accounts.penalties()
    await registry.accounts.penalise("a.x")
    assert sorted(raw.hkeys("vx:1:penalties")) == ["a.x", "b.x"]


def test_a_penalty_halves_every_ten_minutes() -> None:
    assert faded(1, 600) == 0.5
    assert faded(1, 1199) > FORGIVEN >= faded(1, 1201)
    assert faded(1, -3600) == 1


async def test_records_of_another_version_are_left_alone(registry: Registry, raw: Any) -> None:
    raw.set("vx:1:slot:main:0", "nonsense")
    raw.set("vx:1:slot:main:1", '{"schema": 2}')
    raw.set("vx:1:gate:main", '{"schema": 2}')
    raw.hset("vx:1:penalties", "a.x", "nonsense")
    book = await registry.accounts.read({"main": 3})
    assert (book.held, book.resting) == ({"main": {}}, {})
    assert await registry.accounts.penalties() == {}
    assert (await registry.accounts.take("main", 3, name(1), "a.x"))[0] is Answer.RESTING
    raw.delete("vx:1:gate:main")
    assert await registry.accounts.take("main", 3, name(1), "a.x") == (Answer.HELD, "")
    assert raw.get("vx:1:slot:main:0") == "nonsense"
    await registry.accounts.penalise("a.x")
    assert (await registry.accounts.penalties())["a.x"] == pytest.approx(1, abs=0.01)
    assert (await registry.accounts.read({})).held == {}


async def test_without_redis_it_says_so(own_registry: Registry, redis_server: Any) -> None:
    redis_server.stop()
    with pytest.raises(RegistryError):
        await own_registry.accounts.take("main", 1, name(1), "a.x")

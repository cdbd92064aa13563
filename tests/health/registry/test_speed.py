"""Speed tests on a real Redis: one at a time, none forgotten, and 30 days of results."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from health.config import RedisSettings
from health.reasons import Reason
from health.registry import Registry, RegistryError
from health.registry import speed as registry_speed
from health.registry.speed import KEPT_S, MOST, MOST_OF_ONE
from health.speed import Result, State, Test

JP, US = "jp000001", "us000001"


def of(test: Test, **fields: Any) -> Result:
    given = {"download_mbps": 90.5, "upload_mbps": 45.25, "latency_ms": 12.5} | fields
    return Result(id=test.id, node=test.node, country=test.country, **given)


async def taken(registry: Registry, by: str = "c1", seconds: float = 30) -> Test:
    found = await registry.speed.take("m1", by, seconds)
    assert found is not None
    return found


async def test_from_asked_to_told(registry: Registry) -> None:
    asked = await registry.speed.ask("m1", JP, "jp")
    assert (asked.state, asked.ends - asked.asked) == (State.WAITING, 300_000)
    assert await registry.speed.find("m1", JP) == asked
    running = await taken(registry)
    assert (running.id, running.state, running.by) == (asked.id, State.RUNNING, "c1")
    assert await registry.speed.result(asked.id) is None
    assert await registry.speed.end("m1", of(running), "c1")
    assert await registry.speed.find("m1", JP) is None
    result = await registry.speed.result(asked.id)
    assert result == of(running).model_copy(update={"at": result.at if result else 0})
    assert await registry.speed.results(JP, limit=10) == ([result], 1)


async def test_asked_again_it_is_the_same_test(registry: Registry) -> None:
    waiting = {(await registry.speed.ask("m1", JP, "jp")).id for _ in range(3)}
    assert len(waiting) == 1
    running = await taken(registry)
    assert await registry.speed.ask("m1", JP, "jp") == running
    await registry.speed.end("m1", of(running), "c1")
    assert (await registry.speed.ask("m1", JP, "jp")).id not in waiting


async def test_one_at_a_time_on_a_machine_the_longest_waiting_first(registry: Registry) -> None:
    nodes = [f"jp00000{number}" for number in range(5)]
    for node in nodes:
        await registry.speed.ask("m1", node, "jp")
        await asyncio.sleep(0.003)
    for node in nodes:
        found = [
            one for one in await asyncio.gather(*(registry.speed.take("m1", f"c{n}", 30) for n in range(4))) if one
        ]
        assert [one.node for one in found] == [node]
        assert await registry.speed.end("m1", of(found[0]), found[0].by)
    assert await registry.speed.take("m1", "c1", 30) is None


async def test_machines_do_not_wait_for_each_other(registry: Registry) -> None:
    await registry.speed.ask("m1", JP, "jp")
    await registry.speed.ask("m2", US, "us")
    await taken(registry)
    assert await registry.speed.take("m1", "c1", 30) is None
    assert await registry.speed.take("m2", "c2", 30) is not None


async def test_what_nobody_ended_says_so(registry: Registry) -> None:
    await registry.speed.ask("m1", JP, "jp")
    dead = await taken(registry, seconds=0.05)
    await registry.speed.ask("m1", US, "us")
    await asyncio.sleep(0.1)
    assert (await taken(registry, "c2")).node == US
    told = await registry.speed.result(dead.id)
    assert told is not None
    assert (told.reason, told.error) == (
        Reason.INTERNAL,
        "the collector of machine m1 ended in the middle of the test",
    )
    # Paused, and back too late: its result is not the one that is told.
    assert not await registry.speed.end("m1", of(dead), "c1")
    assert await registry.speed.result(dead.id) == told


async def test_what_nobody_took_says_so(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_speed, "WAITS_S", 0.05)
    asked = await registry.speed.ask("m1", JP, "jp")
    await registry.speed.settle("m1")
    assert await registry.speed.result(asked.id) is None
    await asyncio.sleep(0.1)
    await registry.speed.settle("m1")
    told = await registry.speed.result(asked.id)
    assert told is not None
    assert told.error.startswith("no collector of machine m1 took the test in time")


async def test_a_result_of_somebody_elses_test_is_not_taken(registry: Registry) -> None:
    await registry.speed.ask("m1", JP, "jp")
    running = await taken(registry)
    assert not await registry.speed.end("m1", of(running), "c2")
    assert not await registry.speed.end("m1", of(running.model_copy(update={"id": "0" * 16})), "c1")
    assert not await registry.speed.end("m2", of(running), "c1")
    assert await registry.speed.results(limit=10) == ([], 0)
    assert await registry.speed.end("m1", of(running), "c1")
    assert not await registry.speed.end("m1", of(running), "c1")


async def ended(registry: Registry, count: int, node: str = JP) -> list[str]:
    """So many results, one after the other; their ids, newest first."""
    made = [Test(id=f"{number:016x}", node=node, country=node[:2], state=State.RUNNING, asked=0, ends=0) for number in
            range(count)]  # fmt: skip
    for one in made:
        await registry.speed.end("m1", of(one))
        await asyncio.sleep(0.002)
    return [one.id for one in reversed(made)]


async def test_newest_first_in_pages(registry: Registry) -> None:
    ids = await ended(registry, 7)
    pages = [await registry.speed.results(JP, limit=3, offset=offset) for offset in (0, 3, 6, 9)]
    assert [[one.id for one in page] for page, _ in pages] == [ids[:3], ids[3:6], ids[6:], []]
    assert {total for _, total in pages} == {7}
    assert await registry.speed.results(US, limit=3) == ([], 0)
    everything, _ = await registry.speed.results(limit=10)
    assert [one.id for one in everything] == ids
    assert [one.at for one in everything] == sorted((one.at for one in everything), reverse=True)


async def test_kept_for_thirty_days_and_bounded(registry: Registry, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (KEPT_S, MOST, MOST_OF_ONE) == (30 * 86400, 20_000, 1_000)
    (old, *_) = await ended(registry, 1)
    for key in ("vx:1:speed-results", f"vx:1:speed-results:{JP}", f"vx:1:speed-result:{old}"):
        assert KEPT_S - 5 < raw.ttl(key) <= KEPT_S
    for key in ("vx:1:speed-results", f"vx:1:speed-results:{JP}"):
        raw.zincrby(key, -(KEPT_S + 1) * 1000, old)
    assert await registry.speed.results(JP, limit=10) == ([], 0)
    monkeypatch.setattr(registry_speed, "MOST", 5)
    monkeypatch.setattr(registry_speed, "MOST_OF_ONE", 3)
    ids = await ended(registry, 8)
    assert raw.zrevrange(f"vx:1:speed-results:{JP}", 0, -1) == ids[:3]
    assert raw.zrevrange("vx:1:speed-results", 0, -1) == ids[:5]
    assert 0 < raw.ttl("vx:1:speed-results") <= KEPT_S


async def test_values_of_a_newer_writer_are_left_alone(registry: Registry, raw: Any) -> None:
    ids = await ended(registry, 2)
    raw.set(f"vx:1:speed-result:{ids[0]}", '{"schema":2}')
    found, total = await registry.speed.results(JP, limit=10)
    assert ([one.id for one in found], total) == (ids[1:], 2)
    assert await registry.speed.result(ids[0]) is None
    raw.hset("vx:1:speed:m1", mapping={JP: "nonsense", US: '{"schema":2,"ends":1e15,"state":"waiting","asked":1}'})
    raw.hset("vx:1:speed:m1", "gb000001", '{"schema":1,"ends":1e15,"state":"waiting"}')
    assert (await registry.speed.ask("m1", JP, "jp")).state is State.WAITING
    assert await registry.speed.take("m1", "c1", 30) is None  # not understood, and in nobody's way for long
    raw.hdel("vx:1:speed:m1", "gb000001")
    assert (await taken(registry)).node == JP


@pytest.fixture
async def dead(redis_server: Any) -> AsyncIterator[Registry]:
    opened = Registry.open(RedisSettings(url=redis_server.url, timeout=0.1))
    redis_server.stop()
    yield opened
    await opened.close()


async def test_without_redis(dead: Registry) -> None:
    test = Test(id="0" * 16, node=JP, country="jp", state=State.RUNNING, asked=0, ends=0)
    for call in (
        dead.speed.ask("m1", JP, "jp"),
        dead.speed.take("m1", "c", 1),
        dead.speed.settle("m1"),
        dead.speed.end("m1", of(test)),
        dead.speed.find("m1", JP),
        dead.speed.result("0" * 16),
        dead.speed.results(limit=1),
    ):
        with pytest.raises(RegistryError):
            await call

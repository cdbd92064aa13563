"""A worker's snapshot follows a real Redis: how soon, by how many reads, and what was missed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from gateway.following import CHECK_S, follow
from gateway.pools import Fleet
from health.config import RedisSettings
from health.model import Node, Pool, Score, User
from health.registry import PREFIX, Registry, Scored
from tests.conftest import STALL_S
from tests.gateway.stub_fleet import StubFleet

# A busy machine may take twice as long.
SLACK = 2
SOON_S = 0.2 * SLACK
HEALED_S = 1.0 * SLACK + STALL_S
NODE = Node(id="jp000001", country="jp", kind="vpn", machine="m", status="serving", generation=1)


def score(value: float, node: str = NODE.id, **fields: Any) -> Score:
    return Score(node=node, at=1.0, value=value, healthy=True, terms={"latency": 0.5}, **fields)


class Counting(Registry):
    """Counts its full reads."""

    reads = 0

    async def snapshot(self) -> Any:
        self.reads += 1
        return await super().snapshot()


@pytest.fixture
async def registry(redis_server: Any) -> AsyncIterator[Counting]:
    opened = Counting.open(RedisSettings(url=redis_server.url, timeout=2))
    await opened.put_node(NODE)
    await opened.put_scores([score(50)])
    await opened.begin_epoch()
    yield opened
    await opened.close()


@asynccontextmanager
async def following(registry: Registry) -> AsyncIterator[Fleet]:
    fleet = StubFleet()
    task = asyncio.create_task(follow(fleet, registry))
    try:
        await until(lambda: fleet.ready)
        await until(lambda: _subscribed(registry))
        await asyncio.sleep(0.1)  # what subscribing sets off has been read
        yield fleet
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await fleet.close()


async def _subscribed(registry: Registry) -> bool:
    return dict(await registry._redis.pubsub_numsub(PREFIX + "scores"))[PREFIX + "scores"] > 0


async def until(holds: Callable[[], bool | Awaitable[bool]], seconds: float = 30.0) -> float:
    """Seconds until it holds."""
    started = time.monotonic()
    while True:
        found = holds()
        if found if isinstance(found, bool) else await found:
            return time.monotonic() - started
        assert time.monotonic() - started < seconds
        await asyncio.sleep(0.002)


def soon(taken: Sequence[float]) -> bool:
    """Told rather than found by the next look, which is a second later; one may meet a machine that stands still."""
    return sorted(taken)[len(taken) // 2] < SOON_S


def value(fleet: Fleet) -> float:
    return fleet.roster.seats[NODE.id].score


async def test_scores_come_without_a_read(registry: Counting) -> None:
    async with following(registry) as fleet:
        reads, taken = registry.reads, []
        for number in range(5):
            await registry.put_scores([score(60 + number)])
            taken.append(await until(lambda number=number: value(fleet) == 60 + number))
        assert soon(taken)
        assert registry.reads == reads
        assert fleet.snapshot.sequence == (await registry.state())[1]
        await until(lambda: fleet.age < SOON_S)
        assert (await registry.snapshot()).scores[NODE.id].terms == {"latency": 0.5}


class Slow(Counting):
    """Scores are told while it is read."""

    meanwhile: Score | None = None

    async def snapshot(self) -> Any:
        found = await super().snapshot()
        told, self.meanwhile = self.meanwhile, None
        if told is not None:
            await self.put_scores([told])
            await asyncio.sleep(0.2)  # by then it has been heard
        return found


async def test_scores_that_come_during_a_read_need_no_other_one(registry: Counting, redis_server: Any) -> None:
    slow = Slow.open(RedisSettings(url=redis_server.url, timeout=2))
    try:
        async with following(slow) as fleet:
            reads, slow.meanwhile = slow.reads, score(77)
            await registry.put_pool(Pool(country="jp"))
            await until(lambda: "jp" in fleet.snapshot.pools)
            assert value(fleet) == 77
            await until(lambda: fleet.age > CHECK_S / 2)
            await until(lambda: fleet.age < CHECK_S / 2)  # it was asked about
            assert slow.reads == reads + 1
    finally:
        await slow.close()


async def test_an_idle_fleet_is_asked_about_and_not_read(registry: Counting) -> None:
    async with following(registry) as fleet:
        reads = registry.reads
        for _ in range(2):
            await until(lambda: fleet.age > CHECK_S / 2)
            await until(lambda: fleet.age < CHECK_S / 2)  # it was asked about
        assert registry.reads == reads


async def test_everything_else_is_read(registry: Counting) -> None:
    async with following(registry) as fleet:
        taken = []
        await registry.put_node(NODE.model_copy(update={"id": "us000001", "country": "us"}))
        taken.append(await until(lambda: "us000001" in fleet.snapshot.nodes))
        await registry.put_pool(Pool(country="jp"))
        taken.append(await until(lambda: "jp" in fleet.snapshot.pools))
        await registry.put_user(User(name="bob", password_hash="x"))
        taken.append(await until(lambda: "bob" in fleet.snapshot.users))
        await registry.put_scores([score(70)])
        taken.append(await until(lambda: value(fleet) == 70))
        # Each is told: of four, three would have to wait for the next look if one kind were not.
        assert sorted(taken)[2] < SOON_S, taken
        assert max(taken) < SOON_S + STALL_S


@pytest.mark.parametrize("what", ["score", "node"])
async def test_a_lost_message_heals_within_a_second(registry: Counting, redis_server: Any, what: str) -> None:
    with Redis.from_url(redis_server.url, decode_responses=True) as raw:
        async with following(registry) as fleet:
            for number in range(3):  # at different moments between two looks
                changed = score(80 + number) if what == "score" else NODE.model_copy(update={"city": f"c{number}"})
                raw.set(PREFIX + f"{what}:{NODE.id}", changed.dump())
                raw.incr(PREFIX + "sequence")
                taken = await until(
                    lambda number=number: (
                        value(fleet) == 80 + number
                        if what == "score"
                        else fleet.snapshot.nodes[NODE.id].city == f"c{number}"
                    )
                )
                assert taken < HEALED_S
                await asyncio.sleep(0.3)


async def test_a_gap_in_what_is_told_is_read_at_once(registry: Counting, redis_server: Any) -> None:
    with Redis.from_url(redis_server.url) as raw:
        async with following(registry) as fleet:
            taken = []
            for number in range(5):
                reads = registry.reads
                raw.incr(PREFIX + "sequence")
                await registry.put_scores([score(90 + number)])
                taken.append(await until(lambda number=number: value(fleet) == 90 + number))
                taken[-1] += await until(lambda reads=reads: registry.reads > reads)
            assert soon(taken), taken
            assert fleet.snapshot.sequence == (await registry.state())[1]


async def test_an_emptied_redis_changes_nothing_and_the_age_tells(registry: Counting, redis_server: Any) -> None:
    async with following(registry) as fleet:
        redis_server.command("FLUSHALL")
        await registry.put_scores([score(10)])
        await asyncio.sleep(CHECK_S + 0.4)
        assert (value(fleet), list(fleet.snapshot.nodes)) == (50, [NODE.id])
        assert fleet.age > CHECK_S
        await registry.put_node(NODE)
        await registry.begin_epoch()
        assert await until(lambda: fleet.age < 0.1) < HEALED_S


class _SyncFleet(StubFleet):
    def __init__(self) -> None:
        super().__init__(NODE, score(50))
        self.snapshot = replace(self.snapshot, sequence=7)


@pytest.mark.parametrize(
    ("sequence", "taken", "then"),
    [(8, True, 99.0), (7, True, 50.0), (3, True, 50.0), (9, False, 50.0)],
)
def test_scores_are_added_to_the_change_before(sequence: int, taken: bool, then: float) -> None:
    fleet = _SyncFleet()
    assert fleet.rescore(Scored(sequence=sequence, scores=(score(99), score(1, "us999999")))) is taken
    assert fleet.roster.seats[NODE.id].score == then
    assert list(fleet.snapshot.scores) == [NODE.id]


def test_without_a_snapshot_scores_say_nothing() -> None:
    assert not Fleet("m").rescore(Scored(sequence=1, scores=(score(99),)))

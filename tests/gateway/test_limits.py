"""Several workers keep a user's limits together, on a real Redis; with it stopped, emptied, and answers lost."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.account import FIRST_BYTES, credit
from gateway.bucket import BURST_S
from gateway.limits import Grant, Limiter
from gateway.wire.base import WireError
from health.config import RedisSettings
from health.limits import Ask, Lease, month_of
from health.model import User
from health.reasons import Reason
from health.registry import PREFIX, Registry, RegistryError

NOW = 1795000000.0
MONTH = month_of(NOW)


def user(**limits: int) -> User:
    return User(name=f"u{secrets.token_hex(6)}", password_hash="x", **limits)


def _this_month() -> str:
    return month_of(time.time())


class Flaky:
    """The registry, whose next answer a test may lose, before or after it was made."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.fail = ""

    async def renew_limits(self, asks: Iterable[Ask]) -> list[Lease]:
        if self.fail == "unheard":
            raise RegistryError("Redis: gone")
        answers = await self.registry.renew_limits(asks)
        if self.fail == "unanswered":
            raise RegistryError("Redis: no answer in time")
        return answers


class Worker:
    """A limiter whose renewals the test makes, at the times it says."""

    def __init__(self, registry: Registry, one: User) -> None:
        self.user = one
        self.flaky = Flaky(registry)
        self.now = 0.0
        self.limiter = Limiter(self.flaky, lambda: {one.name: one}, clock=lambda: self.now, wall=lambda: NOW)
        self.grants: list[Grant] = []

    def open(self) -> Reason:
        try:
            grant = self.limiter.admit(self.user)
        except WireError as error:
            return error.reason
        assert grant is not None
        self.grants.append(grant)
        return Reason.OK

    def close(self) -> None:
        if self.grants:
            self.grants.pop().release()

    async def renew(self, fail: str = "") -> None:
        self.flaky.fail = fail
        self.now += 1.0
        await self.limiter._renew(self.limiter._in_use())


@asynccontextmanager
async def running(registry: Registry, one: User, count: int) -> AsyncIterator[list[Limiter]]:
    """Limiters as they run."""
    limiters = [Limiter(registry, lambda: {one.name: one}) for _ in range(count)]
    tasks = [asyncio.create_task(limiter.run()) for limiter in limiters]
    try:
        yield limiters
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def admitted(limiter: Limiter, one: User, most: int = 1000) -> list[Grant]:
    grants: list[Grant] = []
    with suppress(WireError):
        while len(grants) < most:
            grant = limiter.admit(one)
            assert grant is not None
            grants.append(grant)
    return grants


def leased(limiter: Limiter, one: User) -> int | None:
    """How many connections its lease allows; None before the first answer."""
    lease = limiter._accounts[one.name]._lease
    return lease.connections if lease else None


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Registry]:
    registry = Registry.open(RedisSettings(url=url, timeout=5))
    try:
        yield registry
    finally:
        await registry.close()


@pytest.fixture
async def shared(redis_url: str) -> AsyncIterator[Registry]:
    async with opened(redis_url) as registry:
        yield registry


def test_who_has_no_limits_gets_no_grant() -> None:
    limiter = Limiter(Flaky(None), dict)  # type: ignore[arg-type]
    assert limiter.admit(None) is None
    assert limiter.admit(user()) is None


UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "open", "open", "close", "spend", "renew", "renew", "unheard", "unanswered", "emptied"]
        ),
        st.integers(0, 2),
        st.integers(1, 8),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=60, deadline=None, suppress_health_check=UNCHECKED)
@given(st.integers(1, 60), STEPS)
def test_connections_stay_within_the_bound(redis_url: str, limit: int, steps: list[tuple[str, int, int]]) -> None:
    async def play() -> None:
        one = user(max_connections=limit)
        async with opened(redis_url) as registry:
            workers = [Worker(registry, one) for _ in range(3)]
            for action, which, amount in steps:
                worker = workers[which]
                if action in ("open", "close"):
                    for _ in range(amount):
                        worker.open() if action == "open" else worker.close()
                elif action != "spend" and action != "emptied":
                    await worker.renew("" if action == "renew" else action)
                assert sum(len(w.grants) for w in workers) <= limit + len(workers) * credit(limit)

    asyncio.run(play())


@settings(max_examples=60, deadline=None, suppress_health_check=UNCHECKED)
@given(STEPS)
def test_no_byte_is_counted_twice_or_lost(redis_url: str, steps: list[tuple[str, int, int]]) -> None:
    async def play() -> None:
        one = user(monthly_bytes=10**9)
        spent, twice, unheard, untold = 0, 0, [0, 0, 0], {0, 1, 2}
        async with opened(redis_url) as registry:
            workers = [Worker(registry, one) for _ in range(3)]
            for worker in workers:
                assert worker.open() is Reason.OK
            for action, which, amount in steps:
                worker = workers[which]
                if action == "spend":
                    worker.grants[0].count(amount)
                    spent += amount
                elif action == "emptied":
                    if untold:
                        continue  # two in one interval: not all were told of the first
                    untold = {0, 1, 2}
                    await registry._redis.delete(PREFIX + f"usage:{one.name}:{MONTH}", PREFIX + f"limits:{one.name}")
                    # Told, and heard by others, but told again, since its teller had no answer.
                    twice += sum(unheard)
                elif action in ("renew", "unheard", "unanswered"):
                    if action == "unanswered":
                        unheard[which] = worker.limiter._accounts[one.name].volume.unsettled
                    elif action == "renew":
                        unheard[which] = 0
                        untold.discard(which)
                    await worker.renew("" if action == "renew" else action)
            for worker in workers:
                await worker.renew()
            total = (await registry.usage([one.name], MONTH))[one.name]
            assert spent <= total <= spent + twice
            for worker in workers:
                await worker.renew()
                await worker.limiter.close()
            assert (await registry.usage([one.name], MONTH))[one.name] == total

    asyncio.run(play())


@settings(max_examples=60, deadline=None, suppress_health_check=UNCHECKED)
@given(st.integers(640, 100_000), STEPS)
def test_bytes_stay_within_the_bound(redis_url: str, limit: int, steps: list[tuple[str, int, int]]) -> None:
    async def play() -> None:
        one = user(monthly_bytes=limit)
        spent, between = 0, [0, 0, 0]
        most = 0
        async with opened(redis_url) as registry:
            workers = [Worker(registry, one) for _ in range(3)]
            for action, which, amount in steps:
                worker = workers[which]
                if action in ("open", "spend", "close"):
                    if not worker.grants:
                        worker.open()
                    if worker.grants and not worker.grants[0].exhausted:
                        nbytes = amount * limit // 16
                        worker.grants[0].count(nbytes)
                        spent += nbytes
                        between[which] += nbytes
                        most = max(most, between[which])
                elif action != "emptied":
                    await worker.renew("" if action == "renew" else action)
                    between[which] = 0
            # What each passed between two renewals at most, and the credit of who never had a lease.
            assert spent <= limit + 3 * most + 3 * (limit // FIRST_BYTES)

    asyncio.run(play())


async def test_one_worker_alone_gets_every_place_and_not_one_more(shared: Registry) -> None:
    one = user(max_connections=100)
    async with running(shared, one, 1) as (limiter,):
        grants = admitted(limiter, one)
        assert len(grants) == credit(100)

        def more() -> bool:
            grants.extend(admitted(limiter, one))
            return len(grants) >= 100

        await until(more)
        await asyncio.sleep(0.2)
        grants.extend(admitted(limiter, one))
        assert len(grants) == 100
        for grant in grants[:3]:
            grant.release()
            grant.release()
        assert len(admitted(limiter, one)) == 3


async def test_places_move_between_workers(shared: Registry) -> None:
    one = user(max_connections=2)
    async with running(shared, one, 2) as (first, second):
        held = admitted(first, one, 2)
        await until(lambda: leased(first, one) == 2)
        late = admitted(second, one)
        assert len(late) == credit(2), "on credit, before it has heard of the other"
        for grant in late:
            grant.release()
        await until(lambda: leased(second, one) == 0)
        with pytest.raises(WireError) as caught:
            second.admit(one)
        assert caught.value.reason is Reason.CONNECTION_LIMIT
        held[0].release()
        await until(lambda: admitted(second, one, 1))
        await until(lambda: leased(second, one) == 1)
        assert not admitted(second, one)


async def test_a_dead_workers_places_come_back(shared: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = Ask.dump
    monkeypatch.setattr(Ask, "dump", lambda ask: dump(ask).replace('"ttl_ms":15000', '"ttl_ms":4000'))
    one = user(max_connections=4)
    async with AsyncExitStack() as dies, running(shared, one, 1) as (alive,):
        (dead,) = await dies.enter_async_context(running(shared, one, 1))
        assert len(admitted(dead, one)) == 4
        await until(lambda: leased(dead, one) == 4)
        for grant in admitted(alive, one):
            grant.release()
        await until(lambda: leased(alive, one) == 0)
        assert not admitted(alive, one)
        await dies.aclose()
        await until(lambda: admitted(alive, one, 1))


async def test_the_whole_month_is_for_all_workers_and_is_settled_at_the_end(shared: Registry) -> None:
    one = user(monthly_bytes=100_000)
    async with running(shared, one, 2) as (first, second):
        grants = [admitted(limiter, one, 1)[0] for limiter in (first, second)]
        assert not any(grant.exhausted for grant in grants)
        for _ in range(12):
            await asyncio.sleep(0.05)
            for grant in grants:
                if not grant.exhausted:
                    grant.count(5000)
        await until(lambda: all(grant.exhausted for grant in grants))
        await until(lambda: not any(limiter._accounts[one.name].volume.unsettled for limiter in (first, second)))
        with pytest.raises(WireError) as caught:
            first.admit(one)
        assert caught.value.reason is Reason.QUOTA_USED
    grants[0].count(7)
    grants[0].release()
    before = (await shared.usage([one.name], _this_month()))[one.name]
    await first.close()
    assert (await shared.usage([one.name], _this_month()))[one.name] == before + 7


async def test_the_rate_is_shared_and_moves_to_where_the_traffic_is(shared: Registry) -> None:
    rate = 200_000
    one = user(bytes_per_second=rate)
    loop = asyncio.get_running_loop()
    async with running(shared, one, 2) as limiters:
        grants = [admitted(limiter, one, 1)[0] for limiter in limiters]
        passed = [0, 0]

        async def pump(which: int, seconds: float) -> None:
            bucket = grants[which].down
            assert bucket is not None
            end = loop.time() + seconds
            while loop.time() < end:
                passed[which] += bucket.take(65536, loop.time())
                await asyncio.sleep(bucket.delay(loop.time()) or 0.001)

        began = loop.time()
        await asyncio.gather(pump(0, 4), pump(1, 4))
        spent = loop.time() - began
        assert sum(passed) <= rate * (spent + 2 * BURST_S + 2 * 2 / 4)
        buckets = [grant.down for grant in grants]
        assert sum(bucket.rate for bucket in buckets if bucket) <= rate
        assert min(passed) >= 0.2 * rate * spent
        assert buckets[0] is not None
        for _ in range(20):
            await pump(0, 1)
            if buckets[0].rate >= 0.9 * rate:
                break
        assert buckets[0].rate >= 0.9 * rate


async def test_limits_hold_while_redis_is_gone(redis_server: Any) -> None:
    one = user(max_connections=40, bytes_per_second=64_000, monthly_bytes=1_000_000)
    async with opened(redis_server.url) as registry, running(registry, one, 2) as (first, second):
        grants = admitted(first, one, 4)
        await until(lambda: first._accounts[one.name]._lease)
        lease = first._accounts[one.name]._lease
        assert lease is not None
        with capture_logs() as logs:
            redis_server.stop()
            await until(lambda: first._lost)
            assert 4 < len(grants) + len(admitted(first, one)) <= max(lease.connections, 13)
            assert len(admitted(second, one)) == credit(40), "a worker that never had a lease goes on with a little"
            grants[0].count(200_000)
            await asyncio.sleep(2.5)
            assert not grants[0].exhausted
            grants[0].count(100_000)
            await until(lambda: grants[0].exhausted)
            redis_server.start()
            await until(lambda: not grants[0].exhausted)
        said = [line["event"] for line in logs]
        assert sum("Redis is gone" in line for line in said) <= 2, "once per worker"
        assert sum("Redis is back" in line for line in said) >= 1
        async with asyncio.timeout(30):
            while (await registry.usage([one.name], _this_month())).get(one.name) != 300_000:
                await asyncio.sleep(0.05)


async def test_a_redis_restarted_empty_gives_nobody_a_new_month(redis_server: Any) -> None:
    one = user(monthly_bytes=10_000)
    async with opened(redis_server.url) as registry, running(registry, one, 2) as (first, second):
        grant, other = admitted(first, one, 1)[0], admitted(second, one, 1)[0]
        grant.count(6000)
        other.count(5000)
        await until(lambda: grant.exhausted and other.exhausted)
        redis_server.stop()
        redis_server.start()
        async with asyncio.timeout(30):
            while True:
                with suppress(RegistryError):
                    if (await registry.usage([one.name], _this_month())).get(one.name) == 11_000:
                        break
                await asyncio.sleep(0.05)
        assert grant.exhausted
        with pytest.raises(WireError):
            second.admit(one)


async def test_a_changed_limit_reaches_open_connections(shared: Registry) -> None:
    one = user(bytes_per_second=64_000)
    current = {one.name: one}
    limiter = Limiter(shared, lambda: current)
    task = asyncio.create_task(limiter.run())
    grant = limiter.admit(one)
    assert grant is not None
    await until(lambda: grant.up is not None and grant.up.rate == 64_000)
    current[one.name] = one.model_copy(update={"bytes_per_second": 6400})
    await until(lambda: grant.up is not None and grant.up.rate == 6400)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

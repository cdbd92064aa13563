"""Leases of a user's limits, as Redis gives them."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from health.limits import Ask, Lease, month_of
from health.registry import PREFIX, Registry

ASK = Ask(
    user="alice",
    worker="w1",
    member="m1",
    month="202611",
    max_connections=100,
    bytes_per_second=1000,
    monthly_bytes=100_000,
    open=0,
    demand=1000,
    generation="",
    counted=0,
    unsettled=0,
    seen=0,
)
OTHER = replace(ASK, worker="w2", member="m2")


async def told(registry: Registry, *asks: Ask) -> list[Lease]:
    return await registry.renew_limits(asks)


@pytest.mark.parametrize(
    ("now", "month"),
    [(0, "197001"), (1796083199.9, "202611"), (1796083200, "202612"), (1798761600, "202701")],
)
def test_months_are_utc(now: float, month: str) -> None:
    assert month_of(now) == month


async def test_a_lease_is_a_quarter_of_what_is_left(registry: Registry) -> None:
    first, second = await told(registry, ASK, OTHER)
    life = first.generation
    assert first == Lease(25, 100, 1000, 1, 25_000, 0, life)
    assert second == Lease(19, 100, 0, 2, 18_750, 0, life)
    (again,) = await told(registry, replace(ASK, open=20))
    assert (again.connections, again.vacant) == (20 + 16, 80)
    (more,) = await told(registry, replace(OTHER, open=90))
    assert (more.connections, more.vacant) == (90, -10)


async def test_a_repeated_report_is_counted_once(registry: Registry) -> None:
    ask = replace(ASK, counted=500, unsettled=500)
    for _ in range(2):
        (lease,) = await told(registry, ask)
        assert lease.total == 500
    ask = replace(ASK, generation=lease.generation, counted=700, unsettled=200, seen=500)
    for _ in range(2):
        (lease,) = await told(registry, ask)
        assert lease.total == 700
    (lease,) = await told(registry, replace(OTHER, counted=50, unsettled=50))
    assert lease.total == 750
    assert await registry.usage(["alice", "bob"], "202611") == {"alice": 750}
    assert await registry.usage(["alice"], "202612") == {}
    assert await registry.usage([], "202612") == {}


async def test_a_redis_restarted_empty_is_told_the_month_again(registry: Registry, raw: Any) -> None:
    await told(registry, replace(ASK, counted=500, unsettled=500))
    await told(registry, replace(OTHER, counted=300, unsettled=300))
    gone = replace(ASK, worker="w3", member="m3", counted=100, unsettled=100)
    (lease,) = await told(registry, gone)
    before = lease.generation
    raw.flushall()
    # w2 heard 800, w1 900; both relayed a little more since; w3 is dead.
    (lease,) = await told(registry, replace(OTHER, generation=before, counted=310, unsettled=10, seen=800))
    after = lease.generation
    assert lease.total == 810
    assert after != before
    ask = replace(ASK, generation=before, counted=505, unsettled=5, seen=900)
    for _ in range(2):
        (lease,) = await told(registry, ask)
        assert (lease.total, lease.generation) == (915, after)
    (lease,) = await told(registry, replace(OTHER, generation=after, counted=30, unsettled=20, seen=810))
    assert lease.total == 935


async def test_who_began_the_record_begins_another_one_after_it_was_lost(registry: Registry, raw: Any) -> None:
    (lease,) = await told(registry, replace(ASK, counted=500, unsettled=500))
    await asyncio.sleep(0.002)  # a record is known by the millisecond that it was begun in
    raw.flushall()
    again = replace(ASK, generation=lease.generation, counted=500, unsettled=0, seen=900)
    (second,) = await told(registry, again)
    assert second.total == 900
    assert second.generation != lease.generation


async def test_a_month_used_up(registry: Registry) -> None:
    ask = replace(ASK, counted=99_000, unsettled=99_000)
    first, second = await told(registry, ask, OTHER)
    assert (first.bytes, second.bytes) == (1000, 0)
    ask = replace(ASK, generation=first.generation, counted=120_000, unsettled=21_000)
    (lease,) = await told(registry, ask)
    assert (lease.bytes, lease.total) == (0, 120_000)
    (lease,) = await told(registry, replace(ASK, month="202612", member="n1"))
    assert (lease.bytes, lease.total) == (25_000, 0)


async def test_limits_that_do_not_exist_are_not_leased(registry: Registry) -> None:
    none = replace(ASK, max_connections=0, bytes_per_second=0, monthly_bytes=0, demand=0, open=7)
    (lease,) = await told(registry, none)
    assert lease == Lease(7, -7, 0, 1, 0, 0, lease.generation)


async def test_shares_move_to_where_the_traffic_is_and_never_exceed_the_rate(registry: Registry) -> None:
    asks = {"w1": ASK, "w2": OTHER, "w3": replace(ASK, worker="w3", member="m3", demand=100)}
    rates: dict[str, int] = {}

    async def rounds(count: int) -> dict[str, int]:
        for _ in range(count):
            for worker, ask in asks.items():
                (lease,) = await told(registry, ask)
                rates[worker] = lease.rate
                assert sum(rates.values()) <= 1000
        return rates

    assert await rounds(3) == {"w1": 450, "w2": 450, "w3": 100}
    asks["w1"] = replace(ASK, demand=0)
    assert await rounds(3) == {"w1": 0, "w2": 900, "w3": 100}
    asks["w2"] = replace(OTHER, demand=0)
    after = await rounds(3)
    assert after == {"w1": 300, "w2": 300, "w3": 400}


async def test_a_lease_ends_and_one_given_back_is_gone(registry: Registry, raw: Any) -> None:
    brief = replace(ASK, ttl_ms=80, open=60)
    lasting = replace(ASK, worker="w3", member="m3", ttl_ms=15_000)
    await told(registry, brief, lasting)
    (lease,) = await told(registry, OTHER)
    assert lease.vacant == 40
    async with asyncio.timeout(20):
        while lease.vacant != 100:
            await asyncio.sleep(0.02)
            (lease,) = await told(registry, OTHER)
    assert set(raw.hkeys(PREFIX + "limits:alice")) == {"w2", "w3"}
    (lease,) = await told(registry, replace(lasting, leave=True, counted=5, unsettled=5))
    assert (lease.connections, lease.bytes, lease.total) == (0, 0, 5)
    assert set(raw.hkeys(PREFIX + "limits:alice")) == {"w2"}
    await told(registry, replace(OTHER, ttl_ms=1))
    assert 0 < raw.ttl(PREFIX + "usage:alice:202611") <= ASK.keep_s


async def test_large_numbers_stay_whole(registry: Registry) -> None:
    huge = 2**50 + 1
    await told(registry, replace(ASK, counted=huge, unsettled=huge, monthly_bytes=2**52))
    (lease,) = await told(registry, replace(OTHER, counted=2, unsettled=2, monthly_bytes=2**52))
    assert lease.total == huge + 2

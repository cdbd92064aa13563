"""Epoch and leases against a real Redis."""

import asyncio
from typing import Any

from health.registry import PREFIX, Registry


async def test_epoch_begins_once(registry: Registry) -> None:
    assert await registry.epoch() == ""
    await registry.begin_epoch()
    epoch = await registry.epoch()
    assert len(epoch) == 16
    await registry.begin_epoch()
    assert await registry.epoch() == epoch


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
    async with asyncio.timeout(20):
        while not await registry.acquire("scorer", "a", 30):
            await asyncio.sleep(0.01)
    await registry.release("nobody", "a")


async def test_a_lease_that_the_clock_makes_longer_is_cut(registry: Registry, raw: Any) -> None:
    """The clock went back by an hour: who is dead would lead for that hour."""
    assert await registry.acquire("scorer", "a", 3)
    assert await registry.lead("control", "", "a", 5) == "a"
    for role in ("scorer", "control"):
        assert raw.pexpire(PREFIX + f"lease:{role}", 3_603_000)
    assert not await registry.acquire("scorer", "b", 3)
    assert await registry.lead("control", "", "b", 5) == ""
    assert raw.pttl(PREFIX + "lease:scorer") <= 3000
    assert raw.pttl(PREFIX + "lease:control") <= 5000
    raw.pexpire(PREFIX + "lease:scorer", 60_000)  # as long as one may be
    assert not await registry.acquire("scorer", "b", 3)
    assert raw.pttl(PREFIX + "lease:scorer") > 50_000
    assert await registry.acquire("scorer", "a", 3)


async def test_of_many_candidates_one_leads(registry: Registry) -> None:
    got = await asyncio.gather(*(registry.acquire("scorer", str(n), 30) for n in range(16)))
    assert sum(got) == 1

"""One subscription for all that is remembered."""

import asyncio
from typing import Any

import pytest

from control.api import feed as feeds
from control.api.feed import AGAIN_S, Feed
from health.config import RedisSettings
from health.registry import Registry


async def until(condition: Any) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.005)


async def test_listeners_hear_what_is_published_and_of_a_gap_first(registry: Registry) -> None:
    feed, heard = Feed(registry), []
    feed.listen(heard.append)
    async with feed.running():
        await until(lambda: feed.alive)
        assert heard == [None]
        await registry.publish("pool", "jp")
        await until(lambda: len(heard) == 2)
        assert (heard[1]["kind"], heard[1]["subject"]) == ("pool", "jp")
    assert not feed.alive


async def test_an_echo_is_waited_for(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "ECHO_WITHIN_S", 15.0)
    feed, heard = Feed(registry), []
    feed.listen(heard.append)
    async with feed.running():
        await until(lambda: feed.alive)
        for _ in range(20):
            async with feed.echo() as mark:
                await registry.publish("audit", "x", mark=mark)
            assert heard[-1]["mark"] == mark


async def test_an_echo_that_does_not_come_is_not_waited_for_long(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(registry)
    async with feed.running():
        await until(lambda: feed.alive)
        async with asyncio.timeout(15), feed.echo():
            pass
    monkeypatch.setattr(feeds, "ECHO_WITHIN_S", 1000.0)
    async with asyncio.timeout(15), feed.echo():  # nobody listens
        pass


async def test_a_lost_subscription_is_told_and_made_again(redis_server: Any) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    feed, heard = Feed(registry), []
    feed.listen(heard.append)
    try:
        async with feed.running():
            await until(lambda: feed.alive)
            redis_server.stop()
            await until(lambda: not feed.alive)
            assert heard[-1] is None
            told = len(heard)
            await asyncio.sleep(3 * AGAIN_S)
            assert len(heard) == told, "told once"
            redis_server.start()
            await until(lambda: feed.alive)
    finally:
        await registry.close()

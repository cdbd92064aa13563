"""Calls end as they should: by the answer, a RegistryError, or a cancellation, also one that redis-py loses
(asyncio.wait_for before Python 3.12).
"""

import asyncio
import contextlib
from typing import Any

import pytest

from health.config import RedisSettings
from health.registry import Registry, RegistryError


async def test_ping(registry: Registry) -> None:
    await registry.ping()


async def test_what_the_server_says_of_itself(redis_server: Any) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url))
    try:
        said = await registry.server()
        assert (said["role"], said["maxmemory_policy"], said["save"]) == ("master", "noeviction", "")
        assert redis_server.command("ACL", "SETUSER", "default", "-config") == "+OK"
        assert "save" not in await registry.server()
    finally:
        await registry.close()


async def _cancelled_in_ping(registry: Registry, lose: Any) -> "asyncio.Task[None]":
    registry._redis.ping = lose  # type: ignore[method-assign]
    task = asyncio.create_task(registry.ping())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    await registry.close()
    return task


async def _swallow() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(10)


async def _turn_into_error() -> None:
    await _swallow()
    raise ConnectionError("cut")


@pytest.mark.parametrize("lose", [_swallow, _turn_into_error])
async def test_lost_cancellation_is_found(redis_url: str, lose: Any) -> None:
    task = await _cancelled_in_ping(Registry.open(RedisSettings(url=redis_url)), lose)
    assert task.cancelled()


async def test_calls_work_while_a_task_is_being_cancelled(redis_url: str) -> None:
    registry = Registry.open(RedisSettings(url=redis_url))
    done = False

    async def clean_up() -> None:
        nonlocal done
        try:
            await asyncio.sleep(10)
        finally:
            await registry.ping()
            done = True

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    await registry.close()
    assert task.cancelled()
    assert done


async def test_a_deadline_stays_an_error_of_redis(redis_server: Any) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=0.05))
    redis_server.pause()
    try:
        with pytest.raises(RegistryError):
            await registry.ping()
    finally:
        redis_server.resume()
        await registry.close()

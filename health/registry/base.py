"""What every part of the registry stands on: one client, calls that end in time, records by name.

What Redis answers late, wrongly or not at all is RegistryError and nothing else.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, TypeVar, cast

import redis.asyncio as aioredis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from health.model import Record, UnknownSchemaError
from health.registry.keys import EVENTS, PREFIX, SEQUENCE
from health.registry.telling import event

R = TypeVar("R", bound=Record)


class RegistryError(Exception):
    """Redis did not answer, or refused."""


class StaleVersionError(Exception):
    """Somebody else changed the record in between; `current` is its version now."""

    def __init__(self, current: int) -> None:
        super().__init__(f"changed by somebody else: its version is {current} now")
        self.current = current


class Base:
    """A client whose calls end within `deadline` seconds, retries and reconnects included."""

    def __init__(self, client: "aioredis.Redis", deadline: float = 0.5) -> None:
        self._redis = client
        self._deadline = deadline
        self._scripts: dict[str, AsyncScript] = {}

    async def close(self) -> None:
        """Close the connections; the registry cannot be used any more."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Nothing, or RegistryError."""
        async with self._call():
            await self._redis.ping()

    async def server(self) -> dict[str, str]:
        """What the server says of itself: INFO, and of its configuration (where it may be read) what is saved when."""
        async with self._call():
            found = {str(name): str(value) for name, value in (await self._redis.info()).items()}
        with contextlib.suppress(RegistryError):  # CONFIG is closed on servers that somebody else runs
            async with self._call():
                saved = await self._redis.config_get("save")
            return found | {str(name): str(value) for name, value in saved.items()}
        return found

    @contextlib.asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        with translated():
            try:
                async with asyncio.timeout(self._deadline):
                    yield
            except RedisError as error:
                # Demoted; what its address or the sentinels stand for may be another one by now.
                if "read only replica" in str(error):
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
                raise

    async def _put(self, prefix: str, index: str, name: str, record: Record) -> None:
        async with self._call(), self._redis.pipeline(transaction=True) as pipe:
            pipe.set(PREFIX + f"{prefix}:{name}", record.dump())
            pipe.sadd(PREFIX + index, name)
            pipe.incr(SEQUENCE)
            pipe.publish(EVENTS, event(prefix, name))
            await pipe.execute()

    async def _delete(self, prefix: str, index: str, name: str) -> None:
        async with self._call(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(PREFIX + f"{prefix}:{name}")
            pipe.srem(PREFIX + index, name)
            pipe.incr(SEQUENCE)
            pipe.publish(EVENTS, event(prefix, name))
            await pipe.execute()

    async def _read_all(self, prefix: str, index: str, kind: type[R]) -> dict[str, R]:
        async with self._call():
            names = await self._redis.smembers(PREFIX + index)
            return await self._fetch(prefix, sorted(cast(set[str], names)), kind)

    async def _read(self, prefix: str, names: Iterable[str], kind: type[R]) -> dict[str, R]:
        async with self._call():
            return await self._fetch(prefix, list(names), kind)

    async def _fetch(self, prefix: str, names: list[str], kind: type[R]) -> dict[str, R]:
        if not names:
            return {}
        values = await self._redis.mget([PREFIX + f"{prefix}:{name}" for name in names])
        return _load_all(dict(zip(names, cast(list[str | None], values), strict=True)), kind)

    def _script(self, text: str) -> Any:
        script = self._scripts.get(text)
        if script is None:
            script = self._scripts[text] = self._redis.register_script(text)
        return script


def _load_all(found: dict[str, str | None], kind: type[R]) -> dict[str, R]:
    records = {}
    for name, value in found.items():
        if value is not None:
            # A record of an unknown schema is a newer writer's: not ours to use, no reason to fail the rest.
            with contextlib.suppress(UnknownSchemaError):
                records[name] = kind.load(value)
    return records


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Whatever goes wrong inside is a RegistryError."""
    # redis-py sends through asyncio.wait_for, which before Python 3.12 loses a cancellation that arrives as the write
    # is done (bpo-37658); the task would then never end.
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        try:
            yield
        finally:
            if task is not None and task.cancelling() > before:
                raise asyncio.CancelledError
    except TimeoutError:
        raise RegistryError("Redis: no answer in time") from None
    except (RedisError, OSError) as error:
        raise RegistryError(f"Redis: {str(error) or type(error).__name__}") from error

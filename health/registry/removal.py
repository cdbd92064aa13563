"""Taking records out of the registry, only as long as they are what the remover saw.

A part of `health.registry`, which hands in its connection; it adds no key of its own.
"""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from health.model import Pool, Record, UnknownSchemaError, User

# Remove a record if it still is the expected one to the byte, or gone already. KEYS record, index, events, sequence;
# ARGV expected, name, event. Answers 1, or 0 where it is another one.
_REMOVE = """
local stored = redis.call('GET', KEYS[1])
if not stored then return 1 end
if stored ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[2])
redis.call('INCR', KEYS[4])
redis.call('PUBLISH', KEYS[3], ARGV[3])
return 1
"""


class Removal:
    """Every method raises RegistryError when Redis does not answer in time; `call` is what sees to that."""

    def __init__(self, client: Any, prefix: str, call: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._redis = client
        self._prefix = prefix
        self._call = call
        self._remove = client.register_script(_REMOVE)

    async def user(self, user: User) -> bool:
        """Remove `user`; False where another record of that name stands there by now."""
        return await self._gone("user", "users", user.name, user)

    async def pool(self, pool: Pool) -> bool:
        """Remove `pool`; False where it was changed meanwhile."""
        return await self._gone("pool", "pools", pool.country, pool)

    async def _gone(self, kind: str, index: str, name: str, record: Record) -> bool:
        keys = [
            f"{self._prefix}{kind}:{name}",
            self._prefix + index,
            self._prefix + "events",
            self._prefix + "sequence",
        ]
        event = json.dumps({"schema": 1, "kind": kind, "subject": name}, separators=(",", ":"))
        async with self._call():
            # Compared as records first: one of an older writer says the same in other bytes.
            stored = await self._redis.get(keys[0])
            if stored is not None and not _same(stored, record):
                return False
            return bool(await self._remove(keys=keys, args=[stored or "", name, event]))


def _same(stored: str, record: Record) -> bool:
    try:
        return type(record).load(stored) == record
    except UnknownSchemaError:
        return False  # a newer writer's: not ours to remove

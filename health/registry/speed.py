"""Speed tests that wait or run, and the results of those that ended.

A part of `health.registry`, which hands in its connection; nothing here opens one. Keys, below the registry's prefix:

    speed:<machine>        hash: node -> its test that waits or runs; changed by the scripts below alone
    speed-result:<id>      the result of a test; expires after 30 days
    speed-results, speed-results:<node>
                           sorted sets of test ids, by the time (Redis's, in ms) at which they ended: 30 days of them,
                           the last 20,000 of all nodes and the last 1,000 of one

All times are Redis's own: the clocks of those who ask may differ.
"""

import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast

from health.model import Record, UnknownSchemaError
from health.speed import Result, Test, abandoned

KEPT_S = 30 * 86400
MOST, MOST_OF_ONE = 20_000, 1_000
WAITS_S = 300
R = TypeVar("R", bound=Record)

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
# A test of a node, unless one waits or runs. KEYS tests; ARGV node, id, country, milliseconds it may wait.
_ASK = (
    _NOW
    + """
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value then
  local ok, test = pcall(cjson.decode, value)
  if ok and type(test) == 'table' and test.schema == 1 and (test.ends or 0) > now then return value end
end
local test = cjson.encode({schema = 1, id = ARGV[2], node = ARGV[1], country = ARGV[3], state = 'waiting', by = '',
  asked = now, ends = now + tonumber(ARGV[4])})
redis.call('HSET', KEYS[1], ARGV[1], test)
redis.call('EXPIRE', KEYS[1], 86400)
return test
"""
)
# Remove what is over; then take the test that has waited longest, if none runs. KEYS tests; ARGV who takes it (empty:
# nobody), milliseconds it may run. Answers the one that was taken, or an empty string, and after it those removed.
_TAKE = (
    _NOW
    + """
local answer, oldest, name, running = {''}, nil, '', false
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ok, test = pcall(cjson.decode, all[i + 1])
  if not ok or type(test) ~= 'table' or (test.ends or 0) <= now then
    redis.call('HDEL', KEYS[1], all[i])
    answer[#answer + 1] = all[i + 1]
  elseif test.state == 'running' then
    running = true
  elseif test.schema == 1 and (not oldest or (test.asked or 0) < (oldest.asked or 0)) then
    oldest, name = test, all[i]
  end
end
if ARGV[1] ~= '' and oldest and not running then
  oldest.state, oldest.by, oldest.ends = 'running', ARGV[1], now + tonumber(ARGV[2])
  answer[1] = cjson.encode(oldest)
  redis.call('HSET', KEYS[1], name, answer[1])
end
return answer
"""
)
# Store a result and forget its test, if it still is in the hands of who says so (empty: of nobody, it was removed).
# KEYS tests, result, all results, those of the node; ARGV node, id, who, result, seconds kept, most, most of one.
_END = (
    _NOW
    + """
if ARGV[3] ~= '' then
  local value = redis.call('HGET', KEYS[1], ARGV[1])
  if not value then return 0 end
  local ok, test = pcall(cjson.decode, value)
  if not ok or type(test) ~= 'table' or test.id ~= ARGV[2] or test.by ~= ARGV[3] then return 0 end
  redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[5])
for i = 3, 4 do
  redis.call('ZADD', KEYS[i], now, ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now - ARGV[5] * 1000)
  redis.call('ZREMRANGEBYRANK', KEYS[i], 0, -1 - ARGV[3 + i])
  redis.call('EXPIRE', KEYS[i], ARGV[5])
end
return 1
"""
)


class SpeedTests:
    """Every method raises RegistryError when Redis does not answer in time; `call` is what sees to that."""

    def __init__(self, client: Any, prefix: str, call: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._redis = client
        self._prefix = prefix
        self._call = call
        self._ask = client.register_script(_ASK)
        self._take = client.register_script(_TAKE)
        self._end = client.register_script(_END)

    async def ask(self, machine: str, node: str, country: str) -> Test:
        """A test of `node`: the one that waits or runs, else a new one, which waits 300 s for a collector."""
        args = [node, secrets.token_hex(8), country, WAITS_S * 1000]
        async with self._call():
            return Test.load(await self._ask(keys=[self._tests(machine)], args=args))

    async def take(self, machine: str, by: str, seconds: float) -> Test | None:
        """Take the test that has waited longest, for `seconds`, unless one runs on the machine; `by` is who asks.

        Those that are over without a result get one, which says so.
        """
        async with self._call():
            taken, *over = await self._take(keys=[self._tests(machine)], args=[by, int(seconds * 1000)])
        for value in over:
            if (test := _load(Test, value)) is not None:
                await self.end(machine, abandoned(test, machine))
        return _load(Test, taken or None)

    async def settle(self, machine: str) -> None:
        """Give those that are over without a result one, where no collector is there to do it."""
        await self.take(machine, "", 0)

    async def end(self, machine: str, result: Result, by: str = "") -> bool:
        """Store a result. False, and nothing stored, where the test is no longer in the hands of `by`."""
        keys = [self._tests(machine), self._result(result.id), self._results(), self._results(result.node)]
        args = [result.node, result.id, by, result.dump(), KEPT_S, MOST, MOST_OF_ONE]
        async with self._call():
            return bool(await self._end(keys=keys, args=args))

    async def find(self, machine: str, node: str) -> Test | None:
        """The test of `node` that waits or runs."""
        async with self._call():
            return _load(Test, await self._redis.hget(self._tests(machine), node))

    async def result(self, test_id: str) -> Result | None:
        """The result of a test that ended within the last 30 days."""
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            pipe.get(self._result(test_id))
            pipe.zscore(self._results(), test_id)
            value, at = await pipe.execute()
        found = _load(Result, value)
        return None if found is None or at is None else found.model_copy(update={"at": at / 1000})

    async def results(self, node: str = "", *, limit: int, offset: int = 0) -> tuple[list[Result], int]:
        """Results of one node or of all, newest first, and how many there are in all."""
        key = self._results(node)
        async with self._call():
            seconds, _ = await self._redis.time()
            since = (seconds - KEPT_S) * 1000
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zcount(key, since, "+inf")
                pipe.zrevrangebyscore(key, "+inf", since, start=offset, num=limit, withscores=True)
                total, found = cast(tuple[int, list[tuple[str, float]]], await pipe.execute())
            values = await self._redis.mget([self._result(name) for name, _ in found]) if found else []
        loaded = ((_load(Result, value), at) for value, (_, at) in zip(values, found, strict=True))
        return [result.model_copy(update={"at": at / 1000}) for result, at in loaded if result], total

    def _tests(self, machine: str) -> str:
        return f"{self._prefix}speed:{machine}"

    def _result(self, test_id: str) -> str:
        return f"{self._prefix}speed-result:{test_id}"

    def _results(self, node: str = "") -> str:
        return f"{self._prefix}speed-results" + (f":{node}" if node else "")


def _load(kind: type[R], value: str | None) -> R | None:
    if value is None:
        return None
    try:
        return kind.load(value)
    except UnknownSchemaError:
        return None

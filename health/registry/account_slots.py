"""Which node holds which of an account's sessions, when an account rests, and which servers failed lately.

A part of `health.registry`, which hands in its connection; nothing here opens one. Keys, below the registry's prefix:

    slot:<account>:<n>  the node that holds session n of an account, n from 0; changed by the scripts below alone
    gate:<account>      there while no node of the account may be started, with the reason; expires
    penalties           hash: server -> how often it failed lately; halves every 10 minutes, below 0.25 it is forgiven;
                        all of it goes an hour after the last failure

All times are Redis's own, in milliseconds: the clocks of those who ask may differ.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field

from health.model import NodeId, Record, UnknownSchemaError

MAX_SLOTS = 100
HALF_LIFE_S = 600
WORST = 8.0
FORGIVEN = 0.25
R = TypeVar("R", bound=Record)

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
# Give every node of a list a slot of its account, then one more node, if the account does not rest, has a slot left and
# nobody else of it is on that server. Who holds a slot keeps it. KEYS gate, slots; ARGV node (empty: only the list),
# server, list (JSON of {node, server}). Answers {what, detail}.
_TAKE = (
    _NOW
    + """
local holders, servers, free = {}, {}, {}
for i = 2, #KEYS do
  local value = redis.call('GET', KEYS[i])
  if value then
    local ok, held = pcall(cjson.decode, value)
    if ok and type(held) == 'table' and held.node then
      holders[held.node] = true
      servers[held.server or ''] = held.node
    end
  else
    free[#free + 1] = KEYS[i]
  end
end
local function take(node, server)
  redis.call('SET', table.remove(free, 1), cjson.encode({schema = 1, node = node, server = server, at = now}))
  holders[node] = true
  servers[server] = node
end
for _, one in ipairs(cjson.decode(ARGV[3])) do
  if not holders[one.node] and #free > 0 then take(one.node, one.server) end
end
if ARGV[1] == '' then return {'held', ''} end
local gate = redis.call('GET', KEYS[1])
if gate then return {'resting', gate} end
if holders[ARGV[1]] then return {'held', ''} end
local other = servers[ARGV[2]]
if other then return {'server', other} end
if #free == 0 then return {'full', ''} end
take(ARGV[1], ARGV[2])
return {'held', ''}
"""
)
# Free a slot if this node has held it for so long and, by its record, has ended or never was: who asks may have looked
# long ago. KEYS slot, node record; ARGV node, milliseconds. Answers 1 where it did.
_FREE = (
    _NOW
    + """
local value = redis.call('GET', KEYS[1])
if not value then return 0 end
local ok, held = pcall(cjson.decode, value)
if not ok or type(held) ~= 'table' or held.node ~= ARGV[1] then return 0 end
if math.abs(now - (held.at or 0)) < tonumber(ARGV[2]) then return 0 end
local record = redis.call('GET', KEYS[2])
if record then
  local status = cjson.decode(record).status
  if status ~= 'stopped' and status ~= 'failed' then return 0 end
end
return redis.call('DEL', KEYS[1])
"""
)
# KEYS gate; ARGV reason, milliseconds.
_REST = (
    _NOW
    + """
local gate = cjson.encode({schema = 1, reason = ARGV[1], ends = now + tonumber(ARGV[2])})
redis.call('SET', KEYS[1], gate, 'PX', ARGV[2])
return 1
"""
)
# One more failure of a server, the earlier ones having faded; those of others that have faded away are dropped.
# KEYS penalties; ARGV server, half-life in ms, highest weight, weight that is forgiven.
_PENALISE = (
    _NOW
    + """
local function faded(value)
  local ok, one = pcall(cjson.decode, value)
  if not ok or type(one) ~= 'table' or not one.weight then return 0 end
  return one.weight * 0.5 ^ (math.max(0, now - one.at) / tonumber(ARGV[2]))
end
local weight = 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local left = faded(all[i + 1])
  if all[i] == ARGV[1] then
    weight = left
  elseif left < tonumber(ARGV[4]) then
    redis.call('HDEL', KEYS[1], all[i])
  end
end
weight = math.min(weight + 1, tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode({schema = 1, weight = weight, at = now}))
redis.call('PEXPIRE', KEYS[1], math.ceil(6 * ARGV[2]))
return 1
"""
)


class Held(Record):
    """Who holds a session, on which server, since when."""

    node: NodeId
    server: str = ""
    at: float = 0.0


class Gate(Record):
    """Why an account rests, and until when."""

    reason: str
    ends: float


class _Penalty(Record):
    weight: Annotated[float, Field(ge=0)]
    at: float


class Answer(StrEnum):
    """What came of asking for a slot. SERVER: another node of the account is on that server."""

    HELD = "held"
    RESTING = "resting"
    SERVER = "server"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Book:
    """The ledger as it stood. `held`: account -> slot -> holder; `resting`: account -> why, and for how long yet."""

    held: Mapping[str, Mapping[int, Held]] = field(default_factory=dict)
    resting: Mapping[str, tuple[str, float]] = field(default_factory=dict)


class AccountSlots:
    """Every method raises RegistryError when Redis does not answer in time; `call` is what sees to that."""

    def __init__(self, client: Any, prefix: str, call: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._redis = client
        self._prefix = prefix
        self._call = call
        self._take = client.register_script(_TAKE)
        self._free = client.register_script(_FREE)
        self._rest = client.register_script(_REST)
        self._penalise = client.register_script(_PENALISE)

    async def take(
        self, account: str, slots: int, node: str, server: str, present: Iterable[tuple[str, str]] = ()
    ) -> tuple[Answer, str]:
        """A session of `account`, which has `slots`, for `node` on `server`; the same answer when asked again.

        First those of `present` (nodes and their servers) that hold none get one: what runs comes before what is new.
        The text beside the answer is why the account rests, or which node is on that server.
        """
        listed = json.dumps([{"node": one, "server": where} for one, where in present])
        async with self._call():
            what, detail = await self._take(
                keys=[self._key("gate", account), *self._slots(account, slots)], args=[node, server, listed]
            )
        answer = Answer(what)
        return answer, _reason(detail) if answer is Answer.RESTING else detail

    async def refill(self, account: str, slots: int, present: Iterable[tuple[str, str]]) -> None:
        """Give those of `present` that hold no session of `account` one, while there is one."""
        await self.take(account, slots, "", "", present)

    async def free(self, account: str, slot: int, node: str, held_for: float = 0.0) -> bool:
        """Free a session if `node` holds it, for `held_for` seconds at least, and is not recorded as one that lives.

        True for the one caller that did.
        """
        async with self._call():
            keys = [self._key("slot", f"{account}:{slot}"), self._key("node", node)]
            return bool(await self._free(keys=keys, args=[node, held_for * 1000]))

    async def rest(self, account: str, reason: str, seconds: float) -> None:
        """Let no node of `account` start for so long, counted from now."""
        async with self._call():
            await self._rest(keys=[self._key("gate", account)], args=[reason, int(seconds * 1000)])

    async def read(self, accounts: Mapping[str, int]) -> Book:
        """The sessions and gates of `accounts` (name -> slots), in one round trip."""
        names = [(account, slot) for account, slots in accounts.items() for slot in range(slots)]
        keys = [self._key("slot", f"{account}:{slot}") for account, slot in names]
        keys += [self._key("gate", account) for account in accounts]
        if not keys:
            return Book()
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.mget(keys)
            (seconds, micros), values = await pipe.execute()
        held: dict[str, dict[int, Held]] = {account: {} for account in accounts}
        for (account, slot), value in zip(names, values, strict=False):
            holder = _load(Held, value)
            if holder is not None:
                held[account][slot] = holder
        now = seconds * 1000 + micros / 1000
        gates = {account: _load(Gate, value) for account, value in zip(accounts, values[len(names) :], strict=True)}
        resting = {account: (gate.reason, max(0.0, gate.ends - now) / 1000) for account, gate in gates.items() if gate}
        return Book(held, resting)

    async def penalise(self, server: str) -> None:
        """Remember that `server` failed."""
        async with self._call():
            await self._penalise(keys=[self._prefix + "penalties"], args=[server, HALF_LIFE_S * 1000, WORST, FORGIVEN])

    async def penalties(self) -> dict[str, float]:
        """The servers that failed lately, and how much that weighs by now (0.25 to 8)."""
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(self._prefix + "penalties")
            (seconds, micros), found = await pipe.execute()
        now = seconds * 1000 + micros / 1000
        stored = {server: _load(_Penalty, value) for server, value in cast(dict[str, str], found).items()}
        weights = {server: faded(one.weight, (now - one.at) / 1000) for server, one in stored.items() if one}
        return {server: weight for server, weight in weights.items() if weight >= FORGIVEN}

    def _slots(self, account: str, slots: int) -> list[str]:
        return [self._key("slot", f"{account}:{slot}") for slot in range(slots)]

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"


def faded(weight: float, seconds: float) -> float:
    """What is left of a penalty's weight after `seconds`."""
    return float(weight * 0.5 ** (max(0.0, seconds) / HALF_LIFE_S))


def _load(kind: type[R], value: str | None) -> R | None:
    if value is None:
        return None
    try:
        return kind.load(value)
    except UnknownSchemaError:
        return None


def _reason(gate: str) -> str:
    found = _load(Gate, gate)
    return found.reason if found is not None else ""

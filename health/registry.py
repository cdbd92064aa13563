"""Every Redis key, and nothing else that knows Redis.

Keys, all under `vx:1:` (values are JSON with `schema: 1`):

    node:<id>      a node record; written by control, does not expire
    nodes          set of node ids
    sample:<id>    last sample; expires after 5 s
    score:<id>     last score; expires after 10 minutes, gateways keep what they saw
    pool:<cc>      a pool; pools is the set of countries
    user:<name>    a proxy user; users is the set of names
    token:<id>     an API token, its secret's SHA-256 only; tokens is the set of ids
    session:<user>:<name>
                   the node a client's session is on; expires. <user> has no colon; empty for all who proved no name
    limits:<user>  hash of the leases that gateway workers hold of a user's limits; each ends after 15 s
    usage:<user>:<yyyymm>
                   hash of the bytes a user moved in a month (UTC): `floor` + `sum` is the total, the other fields are
                   what each worker told; plain numbers, kept for two months
    claim:<slot>   the id of the node that holds a place in a pool (`jp-0`); changed by compare-and-set only
    slot:<account>:<n>, gate:<account>, penalties
                   the providers' accounts, see health.account_slots
    troubles       what is wrong now, by part or country, as the leader of control told last; expires after 15 s
    lease:<role>   who leads a role; lease:collector:<machine> says that a machine's collector lives and writes,
                   lease:collector:<machine>:writes which of several it is
    epoch          random, written by control once nodes, pools and users are complete; a Redis without it is empty,
                   not a fleet without nodes
    events         channel: something changed, read again

An event forces a full read and so carries no sequence: a lost one costs at most the second until the periodic read.

The sign of life of a collector expires before the samples written with it: a missing sample means a missing node only
while the collector lives (read `collectors` first, `samples` after).
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar, cast

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from health import registry_scripts
from health.account_slots import AccountSlots
from health.config import RedisSettings
from health.limits import Ask, Lease
from health.model import Node, NodeId, NodeStatus, Pool, Record, Sample, Score, Token, UnknownSchemaError, User

PREFIX = "vx:1:"
EVENTS = PREFIX + "events"
SAMPLE_TTL_S = 5
COLLECTOR_TTL_S = 4
SCORE_TTL_S = 600
TROUBLES_TTL_S = 15
# A subscription says nothing while nothing happens: asked after so many seconds whether it is still there.
QUIET_S = 1.0
R = TypeVar("R", bound=Record)


class RegistryError(Exception):
    """Redis did not answer, or refused."""


class StaleVersionError(Exception):
    """Somebody else changed the record in between; `current` is its version now."""

    def __init__(self, current: int) -> None:
        super().__init__(f"changed by somebody else: its version is {current} now")
        self.current = current


class _Troubles(Record):
    """What is wrong now."""

    reasons: dict[str, str]


class _Pin(Record):
    """Where a session is."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One full read. `epoch` is empty where Redis has not been filled yet: then the rest means nothing."""

    epoch: str
    nodes: dict[str, Node] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)


class Registry:
    """The fleet's shared state. Every method raises RegistryError when Redis does not answer in time.

    In time: within `deadline` seconds, retries and reconnects included.
    """

    def __init__(self, client: "aioredis.Redis", deadline: float = 0.5) -> None:
        self._redis = client
        self._deadline = deadline
        self._lease = client.register_script(registry_scripts.LEASE)
        self._release = client.register_script(registry_scripts.RELEASE)
        self._put_versioned = client.register_script(registry_scripts.PUT_VERSIONED)
        self._lead = client.register_script(registry_scripts.LEAD)
        self._claim = client.register_script(registry_scripts.CLAIM)
        self._advance = client.register_script(registry_scripts.ADVANCE)
        self._retire = client.register_script(registry_scripts.RETIRE)
        self._swap = client.register_script(registry_scripts.SWAP)
        self._pin = client.register_script(registry_scripts.PIN)
        self._renew_limits = client.register_script(registry_scripts.RENEW_LIMITS)
        self.accounts = AccountSlots(client, PREFIX, self._call)

    @classmethod
    def open(cls, settings: RedisSettings) -> Self:
        """A registry on a pool of connections; nothing is sent before the first call."""
        return cls(
            aioredis.Redis.from_url(
                settings.url,
                password=settings.password.get_secret_value() if settings.password else None,
                protocol=2,  # all we need; RESP3 costs a greeting and maintenance notifications per connection
                decode_responses=True,
                encoding_errors="replace",
                socket_timeout=settings.timeout,
                socket_connect_timeout=settings.timeout,
                retry=Retry(NoBackoff(), 1),
            ),
            deadline=2 * settings.timeout,
        )

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

    # nodes

    async def put_node(self, node: Node) -> None:
        await self._put("node", "nodes", node.id, node)

    async def delete_node(self, node_id: str) -> None:
        await self._delete("node", "nodes", node_id)

    async def node(self, node_id: str) -> Node | None:
        return (await self._read("node", [node_id], Node)).get(node_id)

    async def recorded(self, node_id: str) -> bool:
        """True as well for a record that a newer writer made, and that nobody here can read."""
        async with self._call():
            return bool(await self._redis.exists(PREFIX + f"node:{node_id}"))

    async def nodes(self) -> dict[str, Node]:
        return await self._read_all("node", "nodes", Node)

    async def advance_node(self, node: Node, expected: NodeStatus) -> bool:
        """Replace the record of `node` if its stored status still is `expected`; False where it moved on or is gone.

        False as well where the stored one was told to retire and `node` does not know it yet.
        """
        async with self._call():
            answer = await self._advance(
                keys=[PREFIX + f"node:{node.id}", EVENTS],
                args=[expected.value, node.dump(), _node_event(node, expected)],
            )
        return bool(answer)

    # slots

    async def claim_slot(self, slot: str, node: Node, expected: str) -> bool:
        """Give `slot` to `node` and store its record, both or neither, if `expected` (a node id, or "" for nobody)
        holds the slot. True as well where `node` holds it already: then its record is left as it is."""
        async with self._call():
            answer = await self._claim(
                keys=[PREFIX + f"claim:{slot}", PREFIX + f"node:{node.id}", PREFIX + "nodes", EVENTS],
                args=[node.id, expected, node.dump(), _node_event(node)],
            )
        return bool(answer)

    async def release_slot(self, slot: str, node_id: str) -> None:
        """Free `slot`, if `node_id` still holds it."""
        async with self._call():
            await self._release(keys=[PREFIX + f"claim:{slot}"], args=[node_id])

    async def claims(self, slots: Iterable[str]) -> dict[str, str]:
        """Who holds each of `slots`; free ones are left out."""
        names = list(slots)
        if not names:
            return {}
        async with self._call():
            found = cast(list[str | None], await self._redis.mget([PREFIX + f"claim:{name}" for name in names]))
        return {name: holder for name, holder in zip(names, found, strict=True) if holder}

    # pools

    async def retire(self, pool: Pool, node: Node, expected: NodeStatus) -> bool:
        """Store `pool` (as put_pool does) together with `node`, whose stored status must be `expected`.

        False, and nothing stored, where the node moved on or is gone. Raises StaleVersionError.
        """
        stored = pool.model_copy(update={"version": pool.version + 1, "stamp": secrets.token_hex(4)})
        async with self._call():
            answer = await self._retire(
                keys=[PREFIX + f"pool:{pool.country}", PREFIX + f"node:{node.id}", EVENTS, PREFIX + "pools"],
                args=[
                    *(pool.version, stored.dump(), expected.value, node.dump()),
                    *(_node_event(node, expected), pool.country),
                ],
            )
        if int(answer) < 0:
            raise StaleVersionError(-1 - int(answer))
        return bool(answer)

    async def put_pool(self, pool: Pool) -> Pool:
        """Store `pool` if its `version` is the stored one; returns it with its new version.

        Raises StaleVersionError otherwise.
        """
        stored = pool.model_copy(update={"version": pool.version + 1, "stamp": secrets.token_hex(4)})
        async with self._call():
            answer = await self._put_versioned(
                keys=[PREFIX + f"pool:{pool.country}", PREFIX + "pools", EVENTS],
                args=[pool.version, stored.dump(), pool.country, _event("pool", pool.country)],
            )
        if int(answer):
            raise StaleVersionError(int(answer) - 1)
        return stored

    async def pool(self, country: str) -> Pool | None:
        return (await self._read("pool", [country], Pool)).get(country)

    async def pools(self) -> dict[str, Pool]:
        return await self._read_all("pool", "pools", Pool)

    # users

    async def put_user(self, user: User) -> None:
        await self._put("user", "users", user.name, user)

    async def swap_user(self, user: User, expected: User | None) -> bool:
        """Store `user` if `expected` still is what is stored (None: nothing); False where it is not."""
        async with self._call():
            answer = await self._swap(
                keys=[PREFIX + f"user:{user.name}", PREFIX + "users", EVENTS],
                args=[expected.dump() if expected else "", user.dump(), user.name, _event("user", user.name)],
            )
        return bool(answer)

    async def delete_user(self, name: str) -> None:
        await self._delete("user", "users", name)

    async def users(self) -> dict[str, User]:
        return await self._read_all("user", "users", User)

    # tokens

    async def put_token(self, token: Token) -> None:
        await self._put("token", "tokens", token.id, token)

    async def delete_token(self, token_id: str) -> None:
        await self._delete("token", "tokens", token_id)

    async def token(self, token_id: str) -> Token | None:
        return (await self._read("token", [token_id], Token)).get(token_id)

    async def tokens(self) -> dict[str, Token]:
        return await self._read_all("token", "tokens", Token)

    # sessions

    async def pin_session(self, user: str, name: str, node: str, ttl: float, replaces: str = "") -> str:
        """Put a session on `node` for `ttl` seconds, unless it is on another one than `replaces`.

        Returns the node it is on now: first writer wins. Its expiry changes only where that is `node`.
        """
        pin = _Pin(node=node).dump()
        replaced = _Pin(node=replaces).dump() if replaces else ""
        async with self._call():
            answer = await self._pin(
                keys=[PREFIX + f"session:{user}:{name}"], args=[pin, replaced, max(int(ttl * 1000), 1)]
            )
        try:
            return _Pin.load(answer).node
        except UnknownSchemaError:
            return node  # a newer writer's: it stays, and says nothing to us

    # limits

    async def renew_limits(self, asks: Iterable[Ask]) -> list[Lease]:
        """Settle bytes and renew leases, one answer per ask, in order."""
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            for ask in asks:
                keys = [PREFIX + f"limits:{ask.user}", PREFIX + f"usage:{ask.user}:{ask.month}"]
                await self._renew_limits(keys=keys, args=[ask.dump()], client=pipe)
            return [Lease(*answer) for answer in await pipe.execute()]

    async def usage(self, names: Iterable[str], month: str) -> dict[str, int]:
        """Bytes that users moved in `month` (yyyymm, UTC); users of whom nothing was counted are left out."""
        wanted = list(names)
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            for name in wanted:
                pipe.hmget(PREFIX + f"usage:{name}:{month}", "floor", "sum")
            found = await pipe.execute()
        totals = zip(wanted, found, strict=True)
        return {name: int(floor or 0) + int(total) for name, (floor, total) in totals if total is not None}

    # samples and scores

    async def put_samples(self, machine: str, samples: Iterable[Sample]) -> None:
        """Write one round of a machine's samples, and that its collector lives."""
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            for sample in samples:
                pipe.set(PREFIX + f"sample:{sample.node}", sample.dump(), ex=SAMPLE_TTL_S)
            pipe.set(PREFIX + f"lease:collector:{machine}", "1", ex=COLLECTOR_TTL_S)
            await pipe.execute()

    async def samples(self, node_ids: Iterable[str]) -> dict[str, Sample]:
        return await self._read("sample", node_ids, Sample)

    async def collectors(self, machines: Iterable[str]) -> set[str]:
        """Those of `machines` whose collector wrote within the last 4 s."""
        names = list(machines)
        if not names:
            return set()
        async with self._call():
            found = await self._redis.mget([PREFIX + f"lease:collector:{name}" for name in names])
        return {name for name, value in zip(names, found, strict=True) if value is not None}

    async def put_scores(self, scores: Iterable[Score]) -> None:
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            for score in scores:
                pipe.set(PREFIX + f"score:{score.node}", score.dump(), ex=SCORE_TTL_S)
            pipe.publish(EVENTS, _event("scores", ""))
            await pipe.execute()

    async def scores(self, node_ids: Iterable[str]) -> dict[str, Score]:
        return await self._read("score", node_ids, Score)

    # epoch, leases, events

    async def epoch(self) -> str:
        """The registry's epoch, or an empty string."""
        async with self._call():
            return str(await self._redis.get(PREFIX + "epoch") or "")

    async def begin_epoch(self) -> None:
        """Declare the registry complete, if nobody has yet."""
        async with self._call():
            await self._redis.set(PREFIX + "epoch", secrets.token_hex(8), nx=True)
            await self._redis.publish(EVENTS, _event("epoch", ""))

    async def acquire(self, role: str, holder: str, ttl: float) -> bool:
        """Take or renew the lease of `role` for `ttl` seconds; False while somebody else holds it."""
        async with self._call():
            return bool(await self._lease(keys=[PREFIX + f"lease:{role}"], args=[holder, int(ttl * 1000)]))

    async def release(self, role: str, holder: str) -> None:
        """Give the lease of `role` back, if `holder` still has it."""
        async with self._call():
            await self._release(keys=[PREFIX + f"lease:{role}"], args=[holder])

    async def lead(self, role: str, held: str, fresh: str, ttl: float) -> str:
        """Lead `role` for `ttl` seconds more; returns the term that is ours now, or "" while somebody else leads.

        That is `held`, the term of the last call, if the lease never lapsed since; else `fresh`, a name never used yet.
        """
        async with self._call():
            return str(await self._lead(keys=[PREFIX + f"lease:{role}"], args=[held, fresh, int(ttl * 1000)]))

    async def put_troubles(self, reasons: Mapping[str, str]) -> None:
        """Say what is wrong now, by part or country; to be repeated at least every 15 s."""
        told = _Troubles(reasons=dict(reasons)).dump()
        async with self._call():
            await self._redis.set(PREFIX + "troubles", told, ex=TROUBLES_TTL_S)

    async def troubles(self) -> dict[str, str]:
        """What was said last; empty where nobody said anything for 15 s."""
        async with self._call():
            told = await self._redis.get(PREFIX + "troubles")
        try:
            return _Troubles.load(told).reasons if told else {}
        except UnknownSchemaError:
            return {}

    async def leader(self, role: str) -> str:
        """The term in which `role` is led now, or an empty string."""
        async with self._call():
            return str(await self._redis.get(PREFIX + f"lease:{role}") or "")

    async def snapshot(self) -> Snapshot:
        """Everything a gateway chooses by, in two round trips."""
        async with self._call():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.get(PREFIX + "epoch")
                for index in ("nodes", "pools", "users"):
                    pipe.smembers(PREFIX + index)
                epoch, nodes, pools, users = await pipe.execute()
            keys = [f"node:{i}" for i in nodes] + [f"score:{i}" for i in nodes]
            keys += [f"pool:{c}" for c in pools] + [f"user:{n}" for n in users]
            # Emptied in between, the second half would look like a fleet without nodes.
            values = cast(list[str | None], await self._redis.mget([PREFIX + key for key in [*keys, "epoch"]]))
        if not epoch or values.pop() != epoch:
            return Snapshot(epoch="")
        found = dict(zip(keys, values, strict=True))
        return Snapshot(
            epoch=epoch,
            nodes=_load_all(found, "node:", Node),
            scores=_load_all(found, "score:", Score),
            pools=_load_all(found, "pool:", Pool),
            users=_load_all(found, "user:", User),
        )

    async def events(self, subscribed: Callable[[], None] = lambda: None) -> AsyncGenerator[dict[str, Any], None]:
        """Changes as they are published, for ever; raises RegistryError within 2 s when the subscription is lost.

        Call it again to go on; what happened in between is not told, so read everything then. `subscribed` is called
        once nothing that is published is missed any more.
        """
        async with self._redis.pubsub() as pubsub:
            async with self._call():
                await pubsub.subscribe(EVENTS)
                while (await pubsub.get_message(timeout=self._deadline) or {}).get("type") != "subscribe":
                    pass
            subscribed()
            asked = False
            while True:
                with _translated():
                    message = await pubsub.get_message(timeout=self._deadline if asked else QUIET_S)
                if message is None:
                    if asked:
                        raise RegistryError("Redis: the subscription is silent")
                    async with self._call():
                        await pubsub.ping()
                    asked = True
                    continue
                asked = False
                event = _told(message)
                if event is not None:
                    yield event

    async def publish(self, kind: str, subject: str, **details: Any) -> None:
        """Tell everybody that `subject` changed."""
        async with self._call():
            await self._redis.publish(EVENTS, _event(kind, subject, **details))

    @contextlib.asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        with _translated():
            async with asyncio.timeout(self._deadline):
                yield

    async def _put(self, prefix: str, index: str, name: str, record: Record) -> None:
        async with self._call(), self._redis.pipeline(transaction=True) as pipe:
            pipe.set(PREFIX + f"{prefix}:{name}", record.dump())
            pipe.sadd(PREFIX + index, name)
            pipe.publish(EVENTS, _event(prefix, name))
            await pipe.execute()

    async def _delete(self, prefix: str, index: str, name: str) -> None:
        async with self._call(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(PREFIX + f"{prefix}:{name}")
            pipe.srem(PREFIX + index, name)
            pipe.publish(EVENTS, _event(prefix, name))
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
        return _load_all(dict(zip(names, cast(list[str | None], values), strict=True)), "", kind)


def _load_all(found: dict[str, str | None], prefix: str, kind: type[R]) -> dict[str, R]:
    records = {}
    for key, value in found.items():
        if value is not None and key.startswith(prefix):
            # A record of an unknown schema is a newer writer's: not ours to use, no reason to fail the rest.
            with contextlib.suppress(UnknownSchemaError):
                records[key[len(prefix) :]] = kind.load(value)
    return records


def _event(kind: str, subject: str, **details: Any) -> str:
    return json.dumps({"schema": 1, "kind": kind, "subject": subject, **details}, separators=(",", ":"))


def _node_event(node: Node, was: NodeStatus | None = None) -> str:
    details = {"country": node.country, "status": node.status.value, "reason": node.reason, "retire": node.retire}
    return _event("node", node.id, **details, was=was.value if was else "")


def _told(message: dict[str, Any]) -> dict[str, Any] | None:
    if message["type"] != "message":
        return None
    try:
        event = json.loads(message["data"])
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


@contextlib.contextmanager
def _translated() -> Iterator[None]:
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

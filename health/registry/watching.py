"""What a gateway follows: everything in one read, and changes as they are told."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import redis.asyncio as aioredis

from health.model import Node, Pool, Record, Score, UnknownSchemaError, User
from health.registry.base import Base, R, RegistryError, translated
from health.registry.keys import EVENTS, PREFIX, SCORES, SEQUENCE
from health.registry.telling import Scored, event, scored, told

# A subscription says nothing while nothing happens: asked after so many seconds whether it is still there.
QUIET_S = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One full read. `epoch` is empty where Redis has not been filled yet: then the rest means nothing.

    `sequence` is the number of the last change that it holds.
    """

    epoch: str
    nodes: dict[str, Node] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    sequence: int = 0


_KINDS: dict[str, type[Record]] = {"node": Node, "score": Score, "pool": Pool, "user": User}


class Watching(Base):
    """Snapshots and events."""

    def __init__(self, client: "aioredis.Redis", deadline: float = 0.5) -> None:
        super().__init__(client, deadline)
        self._read_last: dict[str, tuple[str, Record]] = {}

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
            read = [PREFIX + key for key in [*keys, "sequence", "epoch"]]
            values = cast(list[str | None], await self._redis.mget(read))
        if not epoch or values.pop() != epoch:
            return Snapshot(epoch="")
        sequence = int(values.pop() or 0)
        found = self._loaded(dict(zip(keys, values, strict=True)))
        return Snapshot(
            epoch=epoch,
            nodes=_of(found, "node:", Node),
            scores=_of(found, "score:", Score),
            pools=_of(found, "pool:", Pool),
            users=_of(found, "user:", User),
            sequence=sequence,
        )

    def _loaded(self, texts: dict[str, str | None]) -> dict[str, Record]:
        """The records; what reads as it did last time is the same object, and costs no parsing."""
        last, self._read_last = self._read_last, {}
        for key, text in texts.items():
            if text is None:
                continue
            known = last.get(key)
            if known is not None and known[0] == text:
                self._read_last[key] = known
                continue
            with contextlib.suppress(UnknownSchemaError):
                self._read_last[key] = (text, _KINDS[key.partition(":")[0]].load(text))
        return {key: record for key, (_, record) in self._read_last.items()}

    async def state(self) -> tuple[str, int]:
        """Epoch and sequence as they are now: a snapshot that has the same holds every change."""
        async with self._call():
            epoch, sequence = await self._redis.mget([PREFIX + "epoch", SEQUENCE])
        return str(epoch or ""), int(sequence or 0)

    async def events(self, subscribed: Callable[[], None] = lambda: None) -> AsyncGenerator[dict[str, Any], None]:
        """Changes as they are published, for ever; raises RegistryError within 2 s when the subscription is lost.

        Call it again to go on; what happened in between is not told, so read everything then. `subscribed` is called
        once nothing that is published is missed any more.
        """
        async with contextlib.aclosing(self._messages((EVENTS,), subscribed)) as messages:
            async for _, text in messages:
                change = told(text)
                if change is not None:
                    yield change

    async def changes(self, subscribed: Callable[[], None]) -> AsyncGenerator[Scored | None, None]:
        """The same for a gateway: new scores, or None for anything else that a snapshot holds and that changed."""
        async with contextlib.aclosing(self._messages((EVENTS, SCORES), subscribed)) as messages:
            async for channel, text in messages:
                if channel == SCORES:
                    yield scored(text)
                elif (told(text) or {}).get("kind") != "scores":
                    yield None

    async def _messages(
        self, channels: tuple[str, ...], subscribed: Callable[[], None]
    ) -> AsyncGenerator[tuple[str, str], None]:
        async with self._redis.pubsub() as pubsub:
            async with self._call():
                await pubsub.subscribe(*channels)
                for _ in channels:
                    while (await pubsub.get_message(timeout=self._deadline) or {}).get("type") != "subscribe":
                        pass
            subscribed()
            asked = False
            while True:
                with translated():
                    message = await pubsub.get_message(timeout=self._deadline if asked else QUIET_S)
                if message is None:
                    if asked:
                        raise RegistryError("Redis: the subscription is silent")
                    async with self._call():
                        await pubsub.ping()
                    asked = True
                    continue
                asked = False
                if message["type"] == "message":
                    yield message["channel"], message["data"]

    async def publish(self, kind: str, subject: str, **details: Any) -> None:
        """Tell everybody that `subject` changed."""
        async with self._call():
            await self._redis.publish(EVENTS, event(kind, subject, **details))


def _of(records: dict[str, Record], prefix: str, kind: type[R]) -> dict[str, R]:
    return {
        key[len(prefix) :]: record
        for key, record in records.items()
        if key.startswith(prefix) and isinstance(record, kind)
    }

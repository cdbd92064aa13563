"""What a gateway follows: everything in one read, and changes as they are told."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

from health.model import Node, Pool, Score, User
from health.registry.base import Base, RegistryError, load_all, translated
from health.registry.keys import EVENTS, PREFIX
from health.registry.telling import event, told

# A subscription says nothing while nothing happens: asked after so many seconds whether it is still there.
QUIET_S = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One full read. `epoch` is empty where Redis has not been filled yet: then the rest means nothing."""

    epoch: str
    nodes: dict[str, Node] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)


class Watching(Base):
    """Snapshots and events."""

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
            nodes=load_all(found, "node:", Node),
            scores=load_all(found, "score:", Score),
            pools=load_all(found, "pool:", Pool),
            users=load_all(found, "user:", User),
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
                change = told(message)
                if change is not None:
                    yield change

    async def publish(self, kind: str, subject: str, **details: Any) -> None:
        """Tell everybody that `subject` changed."""
        async with self._call():
            await self._redis.publish(EVENTS, event(kind, subject, **details))

"""Proxy users with their sessions and limits, and the API's tokens."""

from collections.abc import Iterable

from health.limits import Ask, Lease
from health.model import NodeId, Record, Token, UnknownSchemaError, User
from health.registry import scripts
from health.registry.base import Base
from health.registry.keys import EVENTS, PREFIX, SEQUENCE
from health.registry.telling import event


class _Pin(Record):
    """Where a session is."""

    node: NodeId


class People(Base):
    """Users, tokens, sessions and limits."""

    async def put_user(self, user: User) -> None:
        await self._put("user", "users", user.name, user)

    async def swap_user(self, user: User, expected: User | None) -> bool:
        """Store `user` if `expected` still is what is stored (None: nothing); False where it is not."""
        async with self._call():
            answer = await self._script(scripts.SWAP)(
                keys=[PREFIX + f"user:{user.name}", PREFIX + "users", EVENTS, SEQUENCE],
                args=[expected.dump() if expected else "", user.dump(), user.name, event("user", user.name)],
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
            answer = await self._script(scripts.PIN)(
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
                await self._script(scripts.RENEW_LIMITS)(keys=keys, args=[ask.dump()], client=pipe)
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

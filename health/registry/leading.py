"""Who leads, what is wrong now, and whether the registry is complete."""

import secrets
from collections.abc import Mapping

from health.model import Record, UnknownSchemaError
from health.registry import scripts
from health.registry.base import Base
from health.registry.keys import EVENTS, PREFIX, TROUBLES_TTL_S
from health.registry.telling import event


class _Troubles(Record):
    """What is wrong now."""

    reasons: dict[str, str]


class Leading(Base):
    """The epoch, leases and troubles."""

    async def epoch(self) -> str:
        """The registry's epoch, or an empty string."""
        async with self._call():
            return str(await self._redis.get(PREFIX + "epoch") or "")

    async def begin_epoch(self) -> None:
        """Declare the registry complete, if nobody has yet."""
        async with self._call():
            await self._redis.set(PREFIX + "epoch", secrets.token_hex(8), nx=True)
            await self._redis.publish(EVENTS, event("epoch", ""))

    async def acquire(self, role: str, holder: str, ttl: float) -> bool:
        """Take or renew the lease of `role` for `ttl` seconds; False while somebody else holds it."""
        async with self._call():
            answer = await self._script(scripts.LEASE)(keys=[PREFIX + f"lease:{role}"], args=[holder, int(ttl * 1000)])
        return bool(answer)

    async def release(self, role: str, holder: str) -> None:
        """Give the lease of `role` back, if `holder` still has it."""
        async with self._call():
            await self._script(scripts.RELEASE)(keys=[PREFIX + f"lease:{role}"], args=[holder])

    async def lead(self, role: str, held: str, fresh: str, ttl: float) -> str:
        """Lead `role` for `ttl` seconds more; returns the term that is ours now, or "" while somebody else leads.

        That is `held`, the term of the last call, if the lease never lapsed since; else `fresh`, a name never used yet.
        """
        async with self._call():
            answer = await self._script(scripts.LEAD)(
                keys=[PREFIX + f"lease:{role}"], args=[held, fresh, int(ttl * 1000)]
            )
        return str(answer)

    async def leader(self, role: str) -> str:
        """The term in which `role` is led now, or an empty string."""
        async with self._call():
            return str(await self._redis.get(PREFIX + f"lease:{role}") or "")

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

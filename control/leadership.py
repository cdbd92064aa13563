"""Who acts: one instance leads by a lease in Redis, in terms that never come back.

A term is a name nobody used before. It lasts while its lease is renewed in time, by Redis's clock alone; an instance
that was paused for longer finds its term over, even where nobody else took the lead meanwhile. What was begun in a term
asks `Term.check` before it does what cannot be undone.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable

import structlog

from health.registry import Registry, RegistryError

log = structlog.get_logger()

ROLE = "reconciler"
Check = Callable[[], Awaitable[None]]
"""Raises LostLeadError where this instance does not lead any more, and RegistryError where nobody knows."""


class LostLeadError(Exception):
    """The term is over: another instance may act by now."""


async def alone() -> None:
    """The check of an instance that is the only one."""


class Term:
    """One term of one leader."""

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self.name = name

    async def check(self) -> None:
        """Nothing, or LostLeadError; RegistryError where Redis does not say."""
        if await self._registry.leader(ROLE) != self.name:
            raise LostLeadError(f"this instance does not lead any more (term {self.name})")


class Leadership:
    """One instance's part in the election. `term` is None while others lead, or nobody is known to."""

    def __init__(self, registry: Registry, machine: str, lease: float) -> None:
        self._registry = registry
        self._machine = machine
        self._lease = lease
        self._lock = asyncio.Lock()
        self._held = ""
        self.term: Term | None = None

    async def renew(self) -> Term | None:
        """Take the lead or keep it, if nobody else has it.

        Raises RegistryError, and does not lead then; the term goes on if the lease outlasts the outage.
        """
        async with self._lock:
            held = self._held
            fresh = f"{self._machine}:{secrets.token_hex(6)}"
            try:
                name = await self._registry.lead(ROLE, held, fresh, self._lease)
            except RegistryError:
                self.term = None
                raise
            if name != held:
                log.info("leading" if name else "not_leading", term=name, was=held)
            if name != held or self.term is None:
                self.term = Term(self._registry, name) if name else None
            self._held = name
            return self.term

    async def keep(self) -> None:
        """Renew a lease that is held, four times in its duration, until cancelled: a slow round must not lose it."""
        while True:
            await asyncio.sleep(self._lease / 4)
            if self._held:
                with contextlib.suppress(RegistryError):
                    await self.renew()

    async def resign(self) -> None:
        """Give the lease back. Raises RegistryError."""
        async with self._lock:
            held, self._held, self.term = self._held, "", None
            if held:
                await self._registry.release(ROLE, held)

"""Which of several processes does a part's work: the one that holds the lease of its role.

Another takes over with its next look where the holder is dead, as far as this machine can tell; of one that is only
silent the lease has to end by itself.
"""

import structlog

from health import holder
from health.registry import Registry

log = structlog.get_logger()


class Lease:
    """One process's hold on the lease of `role`, for `seconds` from each look on."""

    def __init__(self, registry: Registry, role: str, seconds: float) -> None:
        self._registry = registry
        self._role = role
        self._holder = holder.name()
        self._seconds = seconds
        self.held: bool | None = None
        """Whether it was ours at the last look that Redis answered; None before the first."""
        self.beside = False
        """Whether another process on this machine held it then."""

    async def hold(self) -> bool:
        """Take or renew it; False while another one has it. Raises RegistryError."""
        held = await self._acquire()
        other = "" if held else await self._registry.leader(self._role)
        if holder.is_dead(other):
            await self._registry.release(self._role, other)
            held = await self._acquire()
        if held != self.held:
            log.info("leading" if held else "standing by", role=self._role)
        self.held, self.beside = held, not held and holder.is_here(other)
        return held

    async def give_back(self) -> None:
        """Let another one take it at once. Raises RegistryError."""
        if self.held:
            await self._registry.release(self._role, self._holder)

    async def _acquire(self) -> bool:
        return await self._registry.acquire(self._role, self._holder, self._seconds)

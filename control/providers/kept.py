"""A list that a provider tells: fetched when it is due, kept when a new answer is none or not to be believed.

What is there is used at once, however old, while a newer one is fetched behind it. An answer that lost more than half
of what was there before is half an answer, most likely: it is not believed for a day. Knows neither HTTP nor disks.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar

import structlog

from control.providers import ProviderError

log = structlog.get_logger()

FRESH_S = 3600.0
RETRY_S = 60.0
BELIEVED_S = 86400.0
T = TypeVar("T")


class Kept(Generic[T]):
    """`what` names the list; `ask` fetches it, raising ProviderError; `name` is what tells its entries apart.

    `load` reads what was stored in an earlier life and when that was told (Unix seconds); `save` stores it. Both may
    block and never raise. `clock` is monotonic, `wall` Unix seconds.
    """

    def __init__(
        self,
        what: str,
        ask: Callable[[], Awaitable[tuple[T, ...]]],
        name: Callable[[T], str],
        load: Callable[[], tuple[float, tuple[T, ...]]],
        save: Callable[[float, tuple[T, ...]], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._what = what
        self._ask = ask
        self._name = name
        self._load = load
        self._save = save
        self._clock = clock
        self._wall = wall
        self._due = clock()
        self._lock = asyncio.Lock()
        self._loaded = False
        self._behind: asyncio.Task[None] | None = None
        self._at = 0.0
        self._known: dict[str, T] = {}

    @property
    def known(self) -> dict[str, T]:
        """What is there, by name; empty before anything was told."""
        return self._known

    @property
    def at(self) -> float:
        """When that was told (Unix seconds)."""
        return self._at

    async def get(self) -> dict[str, T]:
        """What is there, else what is told now. Raises ProviderError where there is neither."""
        if not self._loaded:
            async with self._lock:
                await self._restore()
        if not self._known:
            await self._renew()
        self.behind()
        return self._known

    def behind(self) -> None:
        """Fetch a newer one without waiting for it, if it is due."""
        if self._clock() >= self._due and (self._behind is None or self._behind.done()):
            self._behind = asyncio.create_task(self._try(), name=self._what)

    async def close(self) -> None:
        if self._behind is not None:
            self._behind.cancel()
            await asyncio.gather(self._behind, return_exceptions=True)

    async def _try(self) -> None:
        try:
            await self._renew()
        except ProviderError as error:
            log.warning("provider_list_kept", what=self._what, entries=len(self._known), reason=str(error))

    async def _renew(self) -> None:
        async with self._lock:
            await self._restore()
            if self._known and self._clock() < self._due:
                return
            self._due = self._clock() + RETRY_S
            told = {self._name(value): value for value in await self._ask()}
            if not told:
                raise ProviderError(f"the provider's {self._what} is empty")
            if self._wall() - self._at < BELIEVED_S and not plausible(told, self._known):
                raise ProviderError(
                    f"the provider's {self._what} shrank from {len(self._known)} to {len(told)} entries: not believed"
                )
            self._known, self._at, self._due = told, self._wall(), self._clock() + FRESH_S
            await asyncio.to_thread(self._save, self._at, tuple(told.values()))

    async def _restore(self) -> None:
        if not self._loaded:
            self._at, values = await asyncio.to_thread(self._load)
            self._known = {self._name(value): value for value in values}
            self._loaded = True


def plausible(now: Collection[str], before: Collection[str]) -> bool:
    """False where more than half of what was there before is gone."""
    return 2 * len(set(before) & set(now)) >= len(set(before))

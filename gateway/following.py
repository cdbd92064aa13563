"""Keeps a worker's snapshot fresh: new scores as they are told, everything else by a full read.

Every change of what a snapshot holds counts `sequence` up in Redis. What was missed shows as a gap, at the next change
or when asked, which happens at least every 0.8 s; then everything is read. Knows nothing of nodes and choices.
"""

import asyncio
import contextlib
import time
from math import inf

import structlog

from gateway.pools import Fleet
from health.registry import Registry, RegistryError, Scored

log = structlog.get_logger()

# A missed change is healed within 1 s: so long, and a full read.
CHECK_S = 0.8
# Whatever writes without counting.
FULL_S = 10.0
# Of a burst of changes the first is read at once, the others together.
BURST_S = 0.05
AGAIN_S = 0.4


async def follow(fleet: Fleet, registry: Registry) -> None:
    """Keep the snapshot of `fleet` fresh, for ever. Its sessions are shared by `registry`, too."""
    fleet.sessions.store = registry
    following = Following(fleet, registry)
    listener = asyncio.create_task(following.listen(), name="registry events")
    try:
        while True:
            await following.look()
            await following.wait()
    finally:
        listener.cancel()


class Following:
    """`listen` hears of changes, `look` sees to it that none is missed."""

    def __init__(self, fleet: Fleet, registry: Registry) -> None:
        self._fleet = fleet
        self._registry = registry
        self._changed = asyncio.Event()
        self._changed.set()
        self._reading = False
        self._told: list[Scored] = []  # while it is read
        self._read_at = -inf
        self._lost = False

    async def wait(self) -> None:
        """Until something changed, or it is time to look whether something did."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECK_S):
                await self._changed.wait()
        rested = time.monotonic() - self._read_at
        if rested < BURST_S:
            await asyncio.sleep(BURST_S - rested)

    async def look(self) -> None:
        """Read everything where something changed, or may have; ask whether something did otherwise."""
        try:
            if await self._is_up_to_date():
                self._fleet.confirm()
            else:
                await self._read()
        except RegistryError as error:
            self._read_at = -inf
            if not self._lost:
                log.warning("Redis is gone; going on with the last snapshot", reason=str(error))
            self._lost = True
            return
        if self._lost:
            log.info("Redis is back")
        self._lost = False

    async def listen(self) -> None:
        """Hear of changes, for ever; what may have been missed is read."""
        while True:
            try:
                async with contextlib.aclosing(self._registry.changes(self._changed.set)) as changes:
                    async for scores in changes:
                        if scores is not None and self._reading:
                            self._told.append(scores)
                        elif scores is None or not self._fleet.rescore(scores):
                            self._changed.set()
            except RegistryError:
                await asyncio.sleep(AGAIN_S)

    async def _is_up_to_date(self) -> bool:
        if self._changed.is_set() or time.monotonic() - self._read_at >= FULL_S:
            return False
        state = await self._registry.state()
        return state == (self._fleet.snapshot.epoch, self._fleet.snapshot.sequence)

    async def _read(self) -> None:
        self._changed.clear()
        self._reading, self._told = True, []  # what is told meanwhile may be newer than what is read
        try:
            self._fleet.update(await self._registry.snapshot())
        finally:
            self._reading = False
        self._read_at = time.monotonic()
        if not all(self._fleet.rescore(scores) for scores in self._told):
            self._changed.set()

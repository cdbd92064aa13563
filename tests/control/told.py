"""The events of a fleet, as a test hears them."""

import asyncio
import secrets
import time
from typing import Any

from health.registry import Registry


class Told:
    """The events, from the moment it is ready."""

    def __init__(self, registry: Registry) -> None:
        self.events: list[dict[str, Any]] = []
        self._registry = registry
        self._task = asyncio.create_task(self._listen())

    async def caught_up(self) -> None:
        """Until what was published before this call has been heard."""
        mark = secrets.token_hex(8)
        while not any(event["subject"] == mark for event in self.of("listening")):
            await self._registry.publish("listening", mark)
            await asyncio.sleep(0.01)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    async def reason(self, kind: str, within: float = 15.0) -> str:
        deadline = time.monotonic() + within
        while not self.of(kind):
            assert time.monotonic() < deadline, self.events
            await asyncio.sleep(0.01)
        return str(self.of(kind)[-1]["reason"])

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        async for event in self._registry.events():
            self.events.append(event)

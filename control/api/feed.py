"""What other instances changed, as it is published: one subscription for the whole API instance.

While `alive`, every change reaches the listeners, so that what they remember is no older than the last event. A lost
subscription is told as a gap (`None`): forget everything.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from health.registry import Registry, RegistryError

log = structlog.get_logger()
AGAIN_S = 0.25
ECHO_WITHIN_S = 0.1

Listener = Callable[[dict[str, Any] | None], None]


class Feed:
    """The subscription. Listeners must neither block nor raise."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._listeners: list[Listener] = []
        self._awaited: dict[str, asyncio.Future[None]] = {}
        self.alive = False

    def listen(self, listener: Listener) -> None:
        """Tell `listener` of every event, and None where some may have been missed."""
        self._listeners.append(listener)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Subscribed while inside, again and again where Redis goes away."""
        task = asyncio.create_task(self._run(), name="api events")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.alive = False

    @contextlib.asynccontextmanager
    async def echo(self) -> AsyncIterator[str]:
        """A mark to publish inside. At the end waits until it came back, at most 0.1 s.

        Redis hands a message to all subscribers at once: when ours has arrived, so has that of the others.
        """
        mark = secrets.token_hex(8)
        arrived = asyncio.get_running_loop().create_future()
        self._awaited[mark] = arrived
        try:
            yield mark
            if self.alive:
                await asyncio.wait([arrived], timeout=ECHO_WITHIN_S)
        finally:
            del self._awaited[mark]

    async def _run(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._registry.events(self._subscribed)) as events:
                    async for event in events:
                        self._tell(event)
            except RegistryError as error:
                self._lost(str(error))
            except Exception:
                log.exception("api_events_broke")
                self._lost("an internal error")
            await asyncio.sleep(AGAIN_S)

    def _lost(self, why: str) -> None:
        if self.alive:
            self.alive = False
            log.warning("api_events_lost", reason=why)
            self._tell(None)

    def _subscribed(self) -> None:
        self.alive = True
        self._tell(None)

    def _tell(self, event: dict[str, Any] | None) -> None:
        for listener in self._listeners:
            listener(event)
        arrived = self._awaited.get(str(event.get("mark"))) if event else None
        if arrived is not None and not arrived.done():
            arrived.set_result(None)

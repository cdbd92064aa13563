"""Asks one node's agent and makes samples of what it says.

A watch keeps one connection to its agent. An agent that is gone gives a negative sample at once; one that stays silent
(a busy machine) only after three questions.

An agent that says what cannot be true gives a negative sample at once, too: who is wrong in one number is not to be
believed about the kill switch. It is asked again over a new connection.
"""

import asyncio
import random
import time
from collections.abc import Callable

import structlog
from pydantic import ValidationError

from health import score
from health.agent_client import AgentClient, AgentError
from health.config import CollectorSettings
from health.model import Sample
from health.process import ticks

log = structlog.get_logger()
_MUCH_SLOWER_MS = 100.0


class _NonsenseError(Exception):
    """An agent said what cannot be true."""


class Watch:
    """One node's agent, asked at a steady rate for as long as the watch lives, and at once when its tunnel changes.

    `urgent()` is called when it said, or its silence says, what should not wait.
    """

    def __init__(self, node_id: str, path: str, settings: CollectorSettings, urgent: Callable[[], None]) -> None:
        self.path = path
        self._node = node_id
        self._settings = settings
        self._urgent = urgent
        self._refused = 0
        self._before: Sample | None = None
        self._extra: asyncio.Task[None] | None = None
        self._client: AgentClient | None = None
        self._newest: Sample | None = None
        self._silent = 0
        self._reached: bool | None = None
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"watch {node_id}")

    @property
    def ended(self) -> bool:
        """True where it ended by itself, which it should not."""
        return self._task.done()

    def take(self) -> Sample | None:
        """What was measured since the last call, if anything."""
        newest, self._newest = self._newest, None
        return newest

    async def close(self) -> None:
        """Stop asking and hang up."""
        self._stop.set()
        tasks = [self._task] if self._extra is None else [self._task, self._extra]
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a watch failed", node=self._node, exc_info=result)
        self._hang_up()

    async def _run(self) -> None:
        interval = self._settings.interval
        first = random.uniform(0, interval)  # noqa: S311 - spreads the questions, keeps no secret
        async for _ in ticks(interval, self._stop, first=first):
            await self._measure()

    async def _measure(self) -> None:
        try:
            client = self._client or await self._connect()
            answer = await client.sample(self._settings.timeout)
            if answer.get("node", self._node) != self._node:
                raise _NonsenseError("it speaks of another node")
            known = {"schema": 1, "node": self._node, "at": time.time(), "reachable": True, "refused": self._refused}
            self._take(Sample.model_validate({**answer, **known}))
        except AgentError as error:
            self._failed(str(error))
        except ValidationError as error:
            self._refuse(f"its {'.'.join(str(part) for part in error.errors()[0]['loc'])[:100]} cannot be")
        except _NonsenseError as error:
            self._refuse(str(error))
        else:
            self._silent = 0
            self._report(True, "")

    def _take(self, sample: Sample) -> None:
        before, self._before = self._before, sample
        self._newest = sample
        if before is not None and _worth_telling(before, sample):
            self._urgent()

    async def _connect(self) -> AgentClient:
        client = AgentClient(self.path, on_close=self._on_close, on_state=self._on_state)
        hello = await client.connect(self._settings.timeout)
        if hello.node != self._node:
            client.close()
            raise _NonsenseError(f"it says it is {hello.node[:20]!r}")
        self._client = client
        return client

    def _on_state(self, _tunnel: str, _generation: int) -> None:
        if self._extra is None or self._extra.done():
            self._extra = asyncio.create_task(self._measure(), name=f"changed {self._node}")

    def _on_close(self) -> None:
        self._client = None
        self._failed("agent closed")
        self._urgent()

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        if self._refused == 1:
            log.warning("sample refused", node=self._node, reason=reason)
        self._hang_up()
        self._newest = self._unreachable()

    def _failed(self, reason: str) -> None:
        self._silent += 1
        if self._client is not None and self._silent < score.FALL:
            return
        self._hang_up()
        self._newest = self._unreachable()
        self._report(False, reason)

    def _unreachable(self) -> Sample:
        return score.unreachable_sample(self._node, time.time()).model_copy(update={"refused": self._refused})

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _report(self, reached: bool, reason: str) -> None:
        if reached and self._reached is not True:
            log.info("agent answers", node=self._node)
        elif not reached and self._reached is not False:
            log.warning("agent does not answer", node=self._node, reason=reason)
        self._reached = reached


def _worth_telling(before: Sample, after: Sample) -> bool:
    """Another state, or twice as slow as a moment ago."""
    changed = any(getattr(before, name) != getattr(after, name) for name in ("tunnel", "generation", "kill_switch"))
    was, now = before.connect_ms, after.connect_ms
    return changed or (was is not None and now is not None and now > max(2 * was, was + _MUCH_SLOWER_MS))

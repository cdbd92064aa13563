"""The record of changes: logged always, published where Redis answers."""

import asyncio
import contextlib
import io
import json
from pathlib import Path

import structlog

from control import audit
from health import logs
from health.config import RedisSettings
from health.registry import Registry

CHANGE = audit.Change("admin", "node.start", "jp", "done", "r1")
FACTS = {"who": "admin", "what": "node.start", "subject": "jp", "outcome": "done", "request_id": "r1"}


async def test_a_change_is_logged_and_published(registry: Registry) -> None:
    async with contextlib.aclosing(registry.events()) as events:
        waiting = asyncio.ensure_future(anext(events))
        with structlog.testing.capture_logs() as found:
            while not waiting.done():
                assert await audit.tell(registry, CHANGE, "m1")
                await asyncio.sleep(0.01)
        event = await waiting
    assert {name: event[name] for name in FACTS} == FACTS
    assert (event["kind"], event["mark"]) == ("audit", "m1")
    assert {name: found[0][name] for name in FACTS} == FACTS


async def test_without_redis_it_is_logged_all_the_same(tmp_path: Path) -> None:
    registry = Registry.open(RedisSettings(url=f"unix://{tmp_path}/none.sock"))
    with structlog.testing.capture_logs() as found:
        assert not await audit.tell(registry, CHANGE, "m1")
    await registry.close()
    assert found[0]["event"] == "audit"


async def test_no_log_level_turns_it_down(tmp_path: Path) -> None:
    out = io.StringIO()
    before = structlog.get_config()
    registry = Registry.open(RedisSettings(url=f"unix://{tmp_path}/none.sock"))
    try:
        logs.configure("error", out)
        await audit.tell(registry, CHANGE, "m1")
    finally:
        structlog.configure(**before)
        await registry.close()
    line = json.loads(out.getvalue())
    assert {name: line[name] for name in FACTS} == FACTS
    assert (line["event"], line["level"]) == ("audit", "info")

"""/api/tokens: the secret is shown once, stored nowhere, and worth nothing once its token is gone."""

import asyncio
import time
from datetime import datetime
from typing import Any

import pytest
import structlog

from control.api import events
from health.config import RedisSettings
from health.registry import Registry
from tests.control.api.conftest import Client, NewApi, asking


async def test_a_secret_is_shown_once_and_stored_nowhere(ask: Client, registry: Registry, shared_redis: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        made = await ask("POST", "/api/tokens", 201, json={"name": "grafana", "scope": "read"})
    secret = made.pop("token")
    named = {"id": secret[3:15], "name": "grafana", "scope": "read"}
    assert made == named | {"created_at": made["created_at"], "expires_at": None, "expired": False}
    assert await ask("GET", "/api/tokens") == [made]
    (stored,) = (await registry.tokens()).values()
    assert secret not in stored.dump()
    assert stored.sha256 not in repr(stored)
    assert secret[16:] not in str(logs)
    assert logs[-1]["event"] == "audit"
    assert (logs[-1]["what"], logs[-1]["subject"]) == ("token.add", made["id"])


async def test_a_removed_token_is_worth_nothing_at_once(ask: Client, fleet: Any, new_api: NewApi) -> None:
    made = await ask("POST", "/api/tokens", 201, json={"name": "ci"})
    client = await new_api(fleet, {"Authorization": f"Bearer {made['token']}"})
    for _ in range(3):
        assert (await client.get("/api/nodes")).status == 200
    assert await ask("DELETE", f"/api/tokens/{made['id']}") == {"status": "deleted", "name": "ci"}
    assert (await client.get("/api/nodes")).status == 401
    assert (await ask("DELETE", f"/api/tokens/{made['id']}", 404))["reason"] == "not_found"
    await ask("DELETE", "/api/tokens/nonsense", 400)


async def test_a_token_is_worth_nothing_once_it_expired(
    ask: Client, fleet: Any, new_api: NewApi, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await ask("POST", "/api/tokens", 201, json={"name": "ci", "ttl": 60})
    begun, ends = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert (ends - begun).total_seconds() == 60
    own = {"Authorization": f"Bearer {made['token']}"}
    assert await ask("GET", "/api/nodes", headers=own) == []
    monkeypatch.setattr(parts.gate, "_wall", lambda: time.time() + 61)
    refused = await ask("GET", "/api/nodes", 401, headers=own)
    assert refused["reason"] == "token_expired"
    assert refused["detail"].startswith(f"this token expired at {made['expires_at']}")
    assert len(parts.gate.slowdown) == 0
    forged = {"Authorization": f"Bearer {made['token'][:-1]}{'AB'[made['token'][-1] == 'A']}"}
    assert (await ask("GET", "/api/nodes", 401, headers=forged))["reason"] == "unauthorized"
    monkeypatch.setattr("time.time", lambda now=time.time: now() + 61)
    assert [token["expired"] for token in await ask("GET", "/api/tokens")] == [True]


async def test_a_stream_of_events_ends_with_its_token(ask: Client, api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    made = await ask("POST", "/api/tokens", 201, json={"name": "ci", "ttl": 60})
    stream = await api.get("/api/events", headers={"Authorization": f"Bearer {made['token']}"})
    assert stream.status == 200
    assert await stream.content.readuntil(b": still here\n\n")
    monkeypatch.setattr("time.time", lambda now=time.time: now() + 61)
    async with asyncio.timeout(15):
        await stream.content.read()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "a\n"},
        {"name": "x" * 65},
        {"name": "ci", "scope": "root"},
        {"name": "ci", "ttl": 59},
        {"name": "ci", "ttl": "90d"},
        {"name": "ci", "ttl": 10**9},
    ],
)
async def test_tokens_that_cannot_be(ask: Client, body: dict[str, Any]) -> None:
    await ask("POST", "/api/tokens", 400, json=body)
    assert await ask("GET", "/api/tokens") == []


async def test_tokens_survive_a_redis_that_lost_everything(
    redis_server: Any, new_control: Any, new_api: NewApi
) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    control = new_control(registry)
    try:
        await control.settle(registry.epoch)
        ask = asking(await new_api(control))
        made = await ask("POST", "/api/tokens", 201, json={"name": "ci"})
        await control.later(0)
        redis_server.stop()
        redis_server.start()
        await control.settle(registry.epoch)
        found = await ask("GET", "/api/stats", headers={"Authorization": f"Bearer {made['token']}"})
        assert found["total_nodes"] == 0
        assert [token["id"] for token in await ask("GET", "/api/tokens")] == [made["id"]]
    finally:
        await control.close()
        await registry.close()

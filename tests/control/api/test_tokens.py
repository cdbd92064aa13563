"""/api/tokens: the secret is shown once, stored nowhere, and worth nothing once its token is gone."""

from typing import Any

import pytest
import structlog

from health.config import RedisSettings
from health.registry import Registry
from tests.control.api.conftest import Client, NewApi, asking


async def test_a_secret_is_shown_once_and_stored_nowhere(ask: Client, registry: Registry, shared_redis: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        made = await ask("POST", "/api/tokens", 201, json={"name": "grafana", "scope": "read"})
    secret = made.pop("token")
    assert made == {"id": secret[3:15], "name": "grafana", "scope": "read", "created_at": made["created_at"]}
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


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": "a\n"}, {"name": "x" * 65}, {"name": "ci", "scope": "root"}]
)
async def test_tokens_that_cannot_be(ask: Client, body: dict[str, Any]) -> None:
    await ask("POST", "/api/tokens", 400, json=body)
    assert await ask("GET", "/api/tokens") == []


async def test_tokens_survive_a_redis_that_lost_everything(
    redis_server: Any, new_control: Any, new_api: NewApi
) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url))
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

"""Two API instances on one Redis: what one changes, the other shows at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control.api import feed
from control.api.board import MAX_AGE_S
from control.api.context import PARTS
from control.api.slowdown import FREE
from health.config import RedisSettings
from health.model import Node, NodeKind, NodeStatus
from health.registry import Registry
from tests.control.api.conftest import Client, NewApi, asking

ROUNDS = 20


@pytest.fixture
async def both(
    new_control: Any,
    new_api: NewApi,
    registry: Registry,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Client, Client]]:
    monkeypatch.setattr(feed, "ECHO_WITHIN_S", 15.0)  # a busy machine may take longer than is waited for otherwise
    await registry.begin_epoch()
    registries = [Registry.open(RedisSettings(url=redis_url, timeout=5.0)) for _ in "ab"]
    made = [new_control(on, tmp_path / str(number)) for number, on in enumerate(registries)]
    clients = [await new_api(control) for control in made]
    async with asyncio.timeout(15):
        while not all(client.app[PARTS].feed.alive for client in clients if client.app is not None):
            await asyncio.sleep(0.01)
    yield asking(clients[0]), asking(clients[1])
    for client in clients:
        await client.close()
    for control in made:
        await control.close()
    for on in registries:
        await on.close()


async def test_a_change_through_one_is_seen_through_the_other_at_once(both: tuple[Client, Client]) -> None:
    one, two = both
    for number in range(ROUNDS):
        await one("GET", "/api/nodes")
        started = await one("POST", f"/api/nodes/{('jp', 'us')[number % 2]}/start", 202)
        assert started["node_id"] in {node["id"] for node in await two("GET", "/api/nodes")}
        stopped = await two("DELETE", f"/api/nodes/{started['node_id']}/stop", 202)
        seen = {node["id"]: node["status"] for node in await one("GET", "/api/nodes")}
        assert seen[started["node_id"]] == stopped["status"] == "stopping"
        pool = await two("PUT", "/api/pools/gb", json={"max": number % 10 + 1})
        assert (await one("GET", "/api/pools/gb"))["version"] == pool["version"]


async def test_what_one_refuses_as_stale_the_other_does_too(both: tuple[Client, Client]) -> None:
    one, two = both
    version = (await one("PUT", "/api/pools/jp", json={"max": 3}))["version"]
    await two("PUT", "/api/pools/jp", json={"max": 4, "version": version})
    await one("PUT", "/api/pools/jp", 409, json={"max": 5, "version": version})
    await asyncio.gather(*(ask("POST", "/api/nodes/us/start", 202) for ask in both for _ in range(4)))
    assert (await two("GET", "/api/pools/us"))["desired"] == 8


async def test_a_token_removed_through_one_is_refused_by_the_other_at_once(both: tuple[Client, Client]) -> None:
    one, two = both
    for _ in range(FREE):
        token = await one("POST", "/api/tokens", 201, json={"name": "ci"})
        login = {"Authorization": f"Bearer {token['token']}"}
        for _ in range(3):
            await two("GET", "/api/stats", headers=login)
        await one("DELETE", f"/api/tokens/{token['id']}")
        await two("GET", "/api/stats", 401, headers=login)


async def test_users_are_shared(both: tuple[Client, Client]) -> None:
    one, two = both
    await one("POST", "/api/users", 201, json={"name": "bob", "password": "x"})
    await two("POST", "/api/users", 409, json={"name": "bob", "password": "y"})
    await two("PATCH", "/api/users/bob", json={"max_connections": 3})
    assert (await one("GET", "/api/users/bob"))["max_connections"] == 3


async def test_what_somebody_else_writes_is_shown_too(both: tuple[Client, Client], registry: Any) -> None:
    one, two = both
    began = time.monotonic()
    for number in range(ROUNDS):
        assert len(await one("GET", "/api/nodes")) == number
        node = Node(id=f"jp{number:06x}", country="jp", kind=NodeKind.VPN, machine="m9", status=NodeStatus.SERVING)
        await registry.put_node(node)
        async with asyncio.timeout(15):
            while len(await one("GET", "/api/nodes")) != number + 1:
                await asyncio.sleep(0)
        async with asyncio.timeout(15):
            while len(await two("GET", "/api/nodes")) != number + 1:
                await asyncio.sleep(0)
    assert time.monotonic() - began < ROUNDS * MAX_AGE_S / 2, "told, not looked for again"

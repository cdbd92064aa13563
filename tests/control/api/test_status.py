"""/api/stats and /api/health."""

from pathlib import Path
from typing import Any

from health.config import RedisSettings
from health.model import Node, NodeKind, NodeStatus
from health.registry import Registry
from tests.control.api.conftest import ADMIN, Client, NewApi
from tests.control.conftest import World


async def test_health_is_open_and_tells_what_is_missing(redis_server: Any, new_control: Any, new_api: NewApi) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    control = new_control(registry)
    try:
        client = await new_api(control, {})
        await control.reconciler.tick()
        found = await (await client.get("/api/health")).json()
        assert found == {"status": "ok", "ready": True, "redis": "ok", "docker": "ok", "leader": True, "standby": False}
        control.world.engine.gone = True
        await control.reconciler.tick()
        assert (await (await client.get("/api/health")).json())["docker"] == "down"
        redis_server.stop()
        found = await (await client.get("/api/health")).json()
        assert (found["status"], found["redis"]) == ("degraded", "down")
        response = await client.get("/api/nodes", headers=ADMIN)
        assert response.status == 503
        assert (await response.json())["reason"] == "registry_down"
    finally:
        await control.close()
        await registry.close()


async def test_while_the_registry_is_being_filled_it_says_so(fleet: Any, new_api: NewApi) -> None:
    client = await new_api(fleet)
    response = await client.post("/api/users", json={"name": "alice", "password": "long enough"})
    assert response.status == 503
    assert "being rebuilt" in (await response.json())["detail"]


async def test_without_an_engine_starting_says_so(new_control: Any, new_api: NewApi, tmp_path: Path) -> None:
    control = new_control(engine="none", direct_nodes=("zz",))
    await control.settle(control.registry.epoch)
    await control.settle(control.registry.nodes)
    client = await new_api(control)
    for path, body in (("/api/nodes/jp/start", {}), ("/api/pools/jp/scale", {"nodes": 1})):
        response = await client.post(path, json=body)
        assert response.status == 503
        assert "no Docker Engine" in (await response.json())["detail"]
    (node,) = await (await client.get("/api/nodes")).json()
    assert (node["country"], node["kind"], node["status"]) == ("zz", "direct", "running")
    refused = await client.delete(f"/api/nodes/{node['id']}/stop")
    assert refused.status == 409
    assert await (await client.get("/api/countries")).json() == ["zz"]


async def test_where_the_fleet_is_another_machines_it_says_so_and_starts_nothing(
    fleet: Any, new_control: Any, new_api: NewApi, tmp_path: Path
) -> None:
    await fleet.pool(1)
    await fleet.serving()
    second = new_control(state_dir=tmp_path / "m2", within=World("m2"), machine="m2")
    client = await new_api(second)
    await second.reconciler.tick()
    response = await client.get("/api/health/ready")
    told = await response.json()
    assert (response.status, told["ready"], told["standby"], told["status"]) == (503, False, True, "degraded")
    refused = await client.post("/api/nodes/jp/start")
    assert refused.status == 503
    assert "the fleet runs on machine m1" in (await refused.json())["detail"]
    assert len(await (await client.get("/api/nodes")).json()) == 1


async def test_readiness_follows_redis(redis_server: Any, new_control: Any, new_api: NewApi) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    control = new_control(registry)
    try:
        client = await new_api(control, {})
        filling = await client.get("/api/health/ready")
        assert (filling.status, (await filling.json())["redis"]) == (503, "filling")
        await registry.begin_epoch()
        assert (await client.get("/api/health/ready")).status == 200
        redis_server.stop()
        down = await client.get("/api/health/ready")
        assert (down.status, (await down.json())["ready"]) == (503, False)
    finally:
        await control.close()
        await registry.close()


async def test_numbers_of_the_whole_fleet(ask: Client, registry: Registry) -> None:
    empty = await ask("GET", "/api/stats")
    assert {name: empty[name] for name in ("total_nodes", "active_nodes", "total_traffic", "connected_clients")} == {
        "total_nodes": 0,
        "active_nodes": 0,
        "total_traffic": 0,
        "connected_clients": 0,
    }
    for number, status in enumerate((NodeStatus.SERVING, NodeStatus.STARTING, NodeStatus.FAILED)):
        node = Node(id=f"jp{number:06x}", country="jp", kind=NodeKind.VPN, machine="m2", status=status)
        await registry.put_node(node)
    await ask("PUT", "/api/pools/us", json={"max": 1})
    found = await ask("GET", "/api/stats")
    assert (found["total_nodes"], found["active_nodes"], found["total_pools"], found["countries"]) == (2, 1, 1, 1)

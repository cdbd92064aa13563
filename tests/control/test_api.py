"""The API over HTTP: shapes, refusals, and that no secret leaves it."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from argon2.low_level import Type

from control.api.context import Context
from control.api.server import application
from control.api.views import STATUS
from health.config import RedisSettings
from health.limits import Ask, month_of
from health.model import Node, NodeKind, NodeStatus, Sample, Score, Tunnel
from health.registry import Registry

PASSWORD = "the-generated-one"
ADMIN = {"Authorization": "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()}
Client = Callable[..., Awaitable[Any]]


def context(control: Any) -> Context:
    return Context(
        fleet=control.fleet,
        registry=control.registry,
        reconciler=control.reconciler,
        files=control.files,
        providers={"nordvpn": control.world.provider},
        default_provider="nordvpn",
        changed=control.reconciler.wake,
        engine=control.world.engine if control.settings.engine == "docker" else None,
    )


@pytest.fixture
async def api(fleet: Any, aiohttp_client: Any) -> Any:
    await fleet.registry.begin_epoch()
    return await aiohttp_client(application(context(fleet), PASSWORD), headers=ADMIN)


@pytest.fixture
async def ask(api: Any) -> Client:
    async def call(method: str, path: str, expected: int = 200, **more: Any) -> Any:
        response = await api.request(method, path, **more)
        body = await response.json()
        assert response.status == expected, body
        if expected >= 400:
            assert set(body) == {"detail", "status", "reason"}
            assert body["status"] == expected
            assert body["detail"]
        return body

    return call


async def test_start_raises_the_pool_and_names_the_node(ask: Client, fleet: Any) -> None:
    started = await ask("POST", "/api/nodes/JP/start", 202)
    assert set(started) == {"status", "node_id", "country", "server"}
    assert (started["status"], started["country"], started["server"]) == ("starting", "jp", "jp1.vpn.example")
    assert (await ask("GET", "/api/pools/jp"))["desired"] == 1
    (node,) = await fleet.serving()
    assert node.id == started["node_id"]
    (shown,) = await ask("GET", "/api/nodes")
    assert shown["id"] == node.id
    assert shown["status"] == "running"


async def test_start_of_uk_is_gb(ask: Client) -> None:
    assert (await ask("POST", "/api/nodes/uk/start", 202))["country"] == "gb"


async def test_start_takes_its_wishes_as_query_or_body(ask: Client, fleet: Any) -> None:
    one = await ask("POST", "/api/nodes/jp/start?server=jp7.vpn.example&protocol=wireguard", 202)
    two = await ask("POST", "/api/nodes/jp/start", 202, json={"server": "jp8.vpn.example", "city": "Osaka"})
    assert (one["server"], two["server"]) == ("jp7.vpn.example", "jp8.vpn.example")
    nodes = await fleet.registry.nodes()
    assert nodes[one["node_id"]].protocol == "wireguard"
    assert nodes[two["node_id"]].city == "Osaka"
    assert (await ask("POST", "/api/nodes/jp/start?city=Tokyo", 400, json={"city": "Osaka"}))["detail"].startswith(
        "city"
    )


async def test_many_starts_at_once_give_as_many_nodes(ask: Client, fleet: Any) -> None:
    answers = await asyncio.gather(*(ask("POST", "/api/nodes/jp/start", 202) for _ in range(8)))
    assert len({answer["node_id"] for answer in answers}) == 8
    assert len({answer["server"] for answer in answers}) == 8
    assert (await ask("GET", "/api/pools/jp"))["desired"] == 8
    nodes = await fleet.serving(count=8)
    assert {node.id for node in nodes} == {answer["node_id"] for answer in answers}


async def test_start_beyond_max_or_without_a_server_changes_nothing(ask: Client, fleet: Any) -> None:
    await ask("PUT", "/api/pools/jp", json={"max": 0})
    assert (await ask("POST", "/api/nodes/jp/start", 409))["reason"] == "pool_limit"
    fleet.world.provider.trouble = "no free openvpn_udp server in us"
    refused = await ask("POST", "/api/nodes/us/start", 503)
    assert (refused["reason"], refused["detail"]) == ("no_server", "no free openvpn_udp server in us")
    assert (await ask("GET", "/api/pools/us"))["desired"] == 0
    assert await ask("GET", "/api/nodes") == []


async def test_stop_drains_this_very_node_and_lowers_the_pool(ask: Client, fleet: Any) -> None:
    await ask("POST", "/api/pools/jp/scale", json={"nodes": 2})
    first, second = await fleet.serving(count=2)
    stopped = await ask("DELETE", f"/api/nodes/{first.id}/stop", 202)
    assert (stopped["status"], stopped["node_id"]) == ("stopping", first.id)
    assert (await ask("DELETE", f"/api/nodes/{first.id}/stop", 202))["status"] == "stopping"
    assert (await ask("GET", "/api/pools/jp"))["desired"] == 1
    await fleet.later(31)

    async def gone() -> bool:
        return bool((await fleet.registry.node(first.id)).status is NodeStatus.STOPPED)

    await fleet.settle(gone)
    assert [node.id for node in await fleet.serving()] == [second.id]
    assert (await ask("DELETE", f"/api/nodes/{first.id}/stop"))["status"] == "stopped"


async def test_stop_respects_min(ask: Client, fleet: Any) -> None:
    await ask("PUT", "/api/pools/jp", json={"desired": 1, "min": 1})
    (node,) = await fleet.serving()
    assert (await ask("DELETE", f"/api/nodes/{node.id}/stop", 409))["reason"] == "pool_limit"


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/api/nodes/jp00ff00", 404, "not_found"),
        ("GET", "/api/nodes/nonsense", 400, "bad_request"),
        ("DELETE", "/api/nodes/jp00ff00/stop", 404, "not_found"),
        ("GET", "/api/nodes/jp00ff00/logs", 404, "not_found"),
        ("POST", "/api/nodes/xx/start", 400, "unknown_country"),
        ("POST", "/api/nodes/japan/start", 400, "unknown_country"),
        ("GET", "/api/pools/%00", 400, "unknown_country"),
        ("POST", "/api/nodes/jp/start?speed=fast", 400, "bad_request"),
        ("POST", "/api/nodes/jp/start?protocol=pptp", 400, "bad_request"),
        ("POST", "/api/nodes/jp/start?city=a&city=b", 400, "bad_request"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("PATCH", "/api/nodes", 405, "method_not_allowed"),
        ("GET", "/api/users/nobody", 404, "not_found"),
        ("DELETE", "/api/users/nobody", 404, "not_found"),
    ],
)
async def test_bad_requests_are_told(ask: Client, method: str, path: str, status: int, reason: str) -> None:
    assert (await ask(method, path, status))["reason"] == reason


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"nodes": -1}, "nodes"),
        ({"nodes": 11}, "nodes"),
        ({"nodes": "2"}, "nodes"),
        ({"nodes": True}, "nodes"),
        ({"nodes": 1.5}, "nodes"),
        ({"nodes": 1, "more": 1}, "more"),
        ({}, "nodes"),
    ],
)
async def test_scale_wants_a_number(ask: Client, body: dict[str, Any], field: str) -> None:
    assert (await ask("POST", "/api/pools/jp/scale", 400, json=body))["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize("raw", [b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 5000])
async def test_bodies_that_are_no_json_object(ask: Client, raw: bytes) -> None:
    await ask("PUT", "/api/pools/jp", 400, data=raw, headers={"Content-Type": "application/json"})


async def test_forms_and_large_bodies_are_refused(ask: Client) -> None:
    await ask("PUT", "/api/pools/jp", 415, data={"desired": "1"})
    large = b'{"provider": "' + b"x" * 70_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    assert (await ask("PUT", "/api/pools/jp", 413, data=large, headers=headers))["reason"] == "too_large"


async def test_pools_are_changed_field_by_field_and_by_version(ask: Client) -> None:
    made = await ask("PUT", "/api/pools/us", json={"desired": 2, "max": 3, "strategy": "random", "fallback": ["uk"]})
    assert (made["desired"], made["max"], made["strategy"], made["fallback"]) == (2, 3, "random", ["gb"])
    assert (made["name"], made["port"], made["protocol"]) == ("United States", 10840, "openvpn_udp")
    changed = await ask("PUT", "/api/pools/us", json={"protocol": "openvpn_tcp", "version": made["version"]})
    assert (changed["desired"], changed["protocol"]) == (2, "openvpn_tcp")
    stale = await ask("PUT", "/api/pools/us", 409, json={"desired": 1, "version": made["version"]})
    assert stale["reason"] == "stale_version"
    assert [pool["country"] for pool in await ask("GET", "/api/pools")] == ["us"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"desired": 4, "max": 3}, 409),
        ({"min": 2, "desired": 1}, 409),
        ({"fallback": ["jp"]}, 422),
        ({"fallback": ["xx"]}, 400),
        ({"strategy": "best"}, 400),
        ({"provider": "acme"}, 422),
        ({"version": -1}, 400),
    ],
)
async def test_pools_that_make_no_sense(ask: Client, body: dict[str, Any], status: int) -> None:
    await ask("PUT", "/api/pools/jp", status, json=body)
    assert (await ask("GET", "/api/pools/jp"))["version"] == 0


async def test_a_pool_says_what_it_waits_for(ask: Client, fleet: Any) -> None:
    await ask("POST", "/api/pools/jp/scale", json={"nodes": 1})
    fleet.world.provider.trouble = "every account is in full use: acct 10/10"
    await fleet.later(0)
    assert (await ask("GET", "/api/pools/jp"))["reason"] == "every account is in full use: acct 10/10"


async def test_users_are_stored_as_argon2id_and_shown_without_it(ask: Client, registry: Registry) -> None:
    body = {"name": "alice", "password": "p:ä ss", "allowed_countries": ["jp", "uk"], "default_country": "gb"}
    made = await ask("POST", "/api/users", 201, json=body)
    unlimited = dict.fromkeys(("max_connections", "bytes_per_second", "monthly_bytes", "month_bytes"))
    assert made == {"name": "alice", "allowed_countries": ["jp", "gb"], "default_country": "gb"} | unlimited
    assert await ask("GET", "/api/users") == [made]
    assert await ask("GET", "/api/users/alice") == made
    stored = (await registry.users())["alice"].password_hash
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PasswordHasher(type=Type.ID).verify(stored, "p:ä ss")
    assert (await ask("POST", "/api/users", 409, json=body))["reason"] == "exists"
    assert (await ask("DELETE", "/api/users/alice"))["status"] == "deleted"
    assert await ask("GET", "/api/users") == []


async def test_limits_of_a_user_and_what_he_moved_this_month(ask: Client, registry: Registry) -> None:
    limits = {"max_connections": 20, "bytes_per_second": 1024, "monthly_bytes": 10**15}
    made = await ask("POST", "/api/users", 201, json={"name": "alice", "password": "x"} | limits)
    stored = (await registry.users())["alice"]
    assert made.items() >= limits.items() <= stored.model_dump().items()
    report = Ask("alice", "w1", "m1", month_of(time.time()), 20, 1024, 10**15, 0, 0, "", 12345, 12345, 0)
    await registry.renew_limits([report])
    assert await ask("GET", "/api/users") == [made | {"month_bytes": 12345}]
    assert (await ask("GET", "/api/users/alice"))["month_bytes"] == 12345


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_connections", 0),
        ("max_connections", "20"),
        ("max_connections", 1.5),
        ("bytes_per_second", 1023),
        ("bytes_per_second", True),
        ("monthly_bytes", 0),
        ("monthly_bytes", -1),
        ("monthly_bytes", 10**15 + 1),
    ],
)
async def test_limits_that_cannot_be(ask: Client, field: str, value: Any) -> None:
    refused = await ask("POST", "/api/users", 400, json={"name": "alice", "password": "x", field: value})
    assert field in refused["detail"]
    assert await ask("GET", "/api/users") == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": "alice"},
        {"name": "a-b", "password": "long enough"},
        {"name": "", "password": "long enough"},
        {"name": "alice", "password": ""},
        {"name": "alice", "password": "a\x00b"},
        {"name": "alice", "password": "x" * 256},
        {"name": "alice", "password": 12345678},
        {"name": "alice", "password": "good", "allowed_countries": ["jp"], "default_country": "us"},
    ],
)
async def test_users_that_cannot_be(ask: Client, body: dict[str, Any]) -> None:
    refused = await ask("POST", "/api/users", 422 if "default_country" in body else 400, json=body)
    assert "long enough" not in refused["detail"]
    assert await ask("GET", "/api/users") == []


async def test_logs_of_running_and_of_ended_nodes(ask: Client, fleet: Any) -> None:
    started = await ask("POST", "/api/nodes/jp/start", 202)
    await fleet.serving()
    fleet.world.engine.output = "one\ntwo\nthree\n"
    found = await ask("GET", f"/api/nodes/{started['node_id']}/logs?lines=2")
    assert found == {"node_id": started["node_id"], "lines": 2, "logs": "two\nthree\n"}
    fleet.world.engine.kill(started["node_id"])

    async def removed() -> bool:
        return fleet.world.engine.of(started["node_id"]) is None

    await fleet.settle(removed)
    assert (await ask("GET", f"/api/nodes/{started['node_id']}/logs"))["logs"] == "one\ntwo\nthree\n"
    for lines in ("0", "-1", "1001", "x", "²", "9" * 5000):
        await ask("GET", f"/api/nodes/{started['node_id']}/logs", 400, params={"lines": lines})


async def test_a_node_is_shown_with_its_sample_and_score(ask: Client, registry: Registry) -> None:
    node = Node(
        id="jp000001",
        country="jp",
        kind=NodeKind.VPN,
        machine="m1",
        status=NodeStatus.SERVING,
        vpn_server="jp1.vpn.example",
        exit_ip="203.0.113.7",
        started_at=0.0,
    )
    await registry.put_node(node)
    sample = Sample(node=node.id, at=1.0, reachable=True, tunnel=Tunnel.UP, probe_ms=12.5, rx_bytes=7)
    await registry.put_samples("m1", [sample])
    await registry.put_scores([Score(node=node.id, at=1.0, value=88.0, healthy=True)])
    shown = await ask("GET", "/api/nodes/jp000001")
    for field in (
        *("id", "country", "city", "kind", "machine", "status", "vpn_server", "tailscale_hostname", "tailscale_ip"),
        *("started_at", "vpn_connected", "tailscale_connected", "health_status", "score", "exit_ip", "reason"),
        "metrics",
    ):
        assert field in shown
    assert (shown["vpn_connected"], shown["health_status"], shown["score"]) == (True, "healthy", 88.0)
    assert shown["started_at"] == "1970-01-01T00:00:00.000+00:00"
    assert shown["metrics"]["network_rx"] == 7


def test_every_state_has_one_of_the_five_names() -> None:
    assert set(STATUS) == set(NodeStatus)
    assert set(STATUS.values()) == {"running", "stopped", "error", "starting", "stopping"}


async def test_countries_are_those_of_the_provider_and_of_the_fleet(ask: Client, fleet: Any) -> None:
    await ask("PUT", "/api/pools/de", json={"max": 2})
    assert await ask("GET", "/api/countries") == ["de", "gb", "jp", "us"]
    fleet.world.provider.trouble = "/v1/servers/countries failed: \r\nX: y"
    assert await ask("GET", "/api/countries") == ["de"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Basic",
        "Basic !!!",
        "Bearer " + PASSWORD,
        "Basic " + base64.b64encode(b"admin:wrong").decode(),
        "Basic " + base64.b64encode(f"root:{PASSWORD}".encode()).decode(),
        "Basic " + base64.b64encode(f"admin:{PASSWORD} ".encode()).decode(),
    ],
)
async def test_nobody_else_gets_in(fleet: Any, aiohttp_client: Any, header: str | None) -> None:
    client = await aiohttp_client(application(context(fleet), PASSWORD))
    for method, path in [("GET", "/api/nodes"), ("POST", "/api/nodes/jp/start"), ("GET", "/api/nothing")]:
        response = await client.request(method, path, headers={"Authorization": header} if header else {})
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Basic ")
        assert (await response.json())["reason"] == "unauthorized"
    assert await fleet.registry.nodes() == {}


async def test_health_is_open_and_tells_what_is_missing(
    redis_server: Any, new_control: Any, aiohttp_client: Any
) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url))
    control = new_control(registry)
    try:
        client = await aiohttp_client(application(context(control), PASSWORD))
        await control.reconciler.tick()
        found = await (await client.get("/api/health")).json()
        assert found == {"status": "ok", "ready": True, "redis": "ok", "docker": "ok", "leader": True}
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


async def test_while_the_registry_is_being_filled_it_says_so(fleet: Any, aiohttp_client: Any) -> None:
    client = await aiohttp_client(application(context(fleet), PASSWORD), headers=ADMIN)
    response = await client.post("/api/users", json={"name": "alice", "password": "long enough"})
    assert response.status == 503
    assert "being rebuilt" in (await response.json())["detail"]


async def test_without_an_engine_starting_says_so(new_control: Any, aiohttp_client: Any, tmp_path: Path) -> None:
    control = new_control(engine="none", direct_nodes=("zz",))
    await control.settle(control.registry.epoch)
    await control.settle(control.registry.nodes)
    client = await aiohttp_client(application(context(control), PASSWORD), headers=ADMIN)
    for path, body in (("/api/nodes/jp/start", {}), ("/api/pools/jp/scale", {"nodes": 1})):
        response = await client.post(path, json=body)
        assert response.status == 503
        assert "no Docker Engine" in (await response.json())["detail"]
    (node,) = await (await client.get("/api/nodes")).json()
    assert (node["country"], node["kind"], node["status"]) == ("zz", "direct", "running")
    refused = await client.delete(f"/api/nodes/{node['id']}/stop")
    assert refused.status == 409
    assert await (await client.get("/api/countries")).json() == ["zz"]

"""/api/speed-test: what is refused, what is waited for, and what is told."""

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from health.config import RedisSettings, SpeedTestSettings
from health.model import Node, NodeKind, NodeStatus
from health.reasons import Reason
from health.registry import Registry
from health.speed import Result, Test
from tests.control.api.conftest import Client, NewApi, asking

JP = "jp000001"
ENDPOINT = SpeedTestSettings(download_url="http://192.0.2.1/{bytes}", upload_url="http://192.0.2.1/")
TESTED = {"download_mbps": 90.5, "upload_mbps": 45.25, "latency_ms": 12.5}


def node(node_id: str = JP, **fields: Any) -> Node:
    given = {"country": node_id[:2], "kind": NodeKind.VPN, "machine": "m1", "status": NodeStatus.SERVING}
    return Node(id=node_id, **(given | fields))


@pytest.fixture
async def ask(fleet: Any, new_api: NewApi) -> Client:
    await fleet.registry.begin_epoch()
    await fleet.registry.put_node(node())
    await fleet.registry.put_samples("m1", [])
    client: TestClient[Any, Any] = await new_api(fleet, speed=ENDPOINT)
    return asking(client)


async def collect(registry: Registry, **fields: Any) -> Test:
    """What a collector does."""
    async with asyncio.timeout(15):
        while (test := await registry.speed.take("m1", "c1", 30)) is None:
            await asyncio.sleep(0.01)
    result = Result(id=test.id, node=test.node, country=test.country, **(TESTED | fields))
    assert await registry.speed.end("m1", result, "c1")
    return test


async def test_the_result_is_the_answer(ask: Client, registry: Registry) -> None:
    told, test = await asyncio.gather(ask("POST", f"/api/speed-test/{JP}"), collect(registry))
    assert told == {
        "id": test.id,
        "node_id": JP,
        "country": "jp",
        "status": "done",
        "tested_at": told["tested_at"],
        "reason": "ok",
        "error": "",
        **TESTED,
    }
    assert await ask("GET", f"/api/speed-test/results/{JP}") == [told]
    assert await ask("GET", "/api/speed-test/results") == [told]


async def test_so_is_why_there_is_none(ask: Client, registry: Registry) -> None:
    failed = {"download_mbps": None, "upload_mbps": None, "reason": Reason.REFUSED, "error": "nobody is there"}
    told, _ = await asyncio.gather(ask("POST", f"/api/speed-test/{JP}"), collect(registry, **failed))
    assert (told["status"], told["download_mbps"]) == ("failed", None)
    assert (told["reason"], told["error"]) == ("refused", "nobody is there")


async def test_begun_and_looked_for_later(ask: Client, registry: Registry) -> None:
    first = await ask("POST", f"/api/speed-test/{JP}?wait=0", 202)
    assert (first["status"], first["tested_at"], first["reason"]) == ("waiting", None, None)
    assert await registry.speed.take("m1", "c1", 30) is not None
    again = await ask("POST", f"/api/speed-test/{JP}?wait=0.1", 202)
    assert (again["id"], again["status"]) == (first["id"], "running")
    assert await ask("GET", f"/api/speed-test/results/{JP}") == []
    await registry.speed.end("m1", Result(id=first["id"], node=JP, country="jp", **TESTED), "c1")
    (found,) = await ask("GET", f"/api/speed-test/results/{JP}")
    assert (found["id"], found["status"]) == (first["id"], "done")


async def test_a_collector_that_died_is_told_to_who_waits(ask: Client, registry: Registry) -> None:
    first = await ask("POST", f"/api/speed-test/{JP}?wait=0", 202)
    assert await registry.speed.take("m1", "c1", 0.3) is not None
    told = await ask("POST", f"/api/speed-test/{JP}?wait=5")
    assert (told["id"], told["status"]) == (first["id"], "failed")
    assert told["error"] == "the collector of machine m1 ended in the middle of the test"


async def test_and_to_who_looks(ask: Client, registry: Registry) -> None:
    for path in (f"/api/speed-test/results/{JP}", "/api/speed-test/results"):
        await ask("POST", f"/api/speed-test/{JP}?wait=0", 202)
        assert await registry.speed.take("m1", "c1", 0.01) is not None
        await asyncio.sleep(0.05)
        assert "ended in the middle" in (await ask("GET", path))[0]["error"]


@pytest.mark.parametrize(
    ("fields", "status", "reason", "words"),
    [
        ({"status": NodeStatus.DRAINING}, 409, "not_serving", "jp000001 is draining"),
        ({"status": NodeStatus.STOPPED}, 409, "not_serving", "jp000001 is stopped"),
        ({"kind": NodeKind.UPSTREAM, "upstream": "socks5://h:1"}, 409, "not_measurable", "of kind upstream"),
        ({"kind": NodeKind.DIRECT}, 409, "not_measurable", "of kind direct"),
        ({"machine": "m2"}, 503, "no_collector", "the collector of machine m2"),
    ],
)
async def test_what_cannot_be_measured_is_refused(
    ask: Client, registry: Registry, fields: dict[str, Any], status: int, reason: str, words: str
) -> None:
    await registry.put_node(node(**fields))
    refused = await ask("POST", f"/api/speed-test/{JP}", status)
    assert refused["reason"] == reason
    assert words in refused["detail"]
    assert await registry.speed.take(fields.get("machine", "m1"), "c1", 1) is None


async def test_without_an_endpoint(fleet: Any, new_api: NewApi) -> None:
    await fleet.registry.begin_epoch()
    await fleet.registry.put_node(node())
    ask = asking(await new_api(fleet))
    refused = await ask("POST", f"/api/speed-test/{JP}", 409)
    assert refused["reason"] == "no_endpoint"
    assert "speed_test.download_url" in refused["detail"]
    assert await ask("GET", "/api/speed-test/results") == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/speed-test/jp00000f", 404),
        ("POST", "/api/speed-test/nonsense", 400),
        ("POST", f"/api/speed-test/{JP}?wait=61", 400),
        ("POST", f"/api/speed-test/{JP}?wait=nan", 400),
        ("POST", f"/api/speed-test/{JP}?wait=-1", 400),
        ("GET", "/api/speed-test/results?limit=0", 400),
        ("GET", "/api/speed-test/results?limit=1001", 400),
        ("GET", f"/api/speed-test/results/{JP}?offset=-1", 400),
        ("GET", "/api/speed-test/results/nonsense", 400),
    ],
)
async def test_nonsense_is_refused(ask: Client, method: str, path: str, status: int) -> None:
    await ask(method, path, status)


async def test_results_in_pages(fleet: Any, new_api: NewApi, registry: Registry) -> None:
    await fleet.registry.begin_epoch()
    client = await new_api(fleet)
    for number in range(5):  # of a node that is gone by now
        await registry.speed.end("m1", Result(id=f"{number:016x}", node=JP, country="jp", **TESTED))
        await asyncio.sleep(0.002)
    for path in ("/api/speed-test/results", f"/api/speed-test/results/{JP}"):
        response = await client.get(f"{path}?limit=2&offset=1")
        assert [one["id"][-1] for one in await response.json()] == ["3", "2"]
        assert response.headers["X-Total-Count"] == "5"


async def test_it_takes_the_scope_operate(fleet: Any, new_api: NewApi) -> None:
    await fleet.registry.begin_epoch()
    await fleet.registry.put_node(node())
    admin = asking(await new_api(fleet, speed=ENDPOINT))
    token = (await admin("POST", "/api/tokens", 201, json={"name": "reader", "scope": "read"}))["token"]
    reader = asking(await new_api(fleet, {"Authorization": f"Bearer {token}"}, speed=ENDPOINT))
    await reader("POST", f"/api/speed-test/{JP}", 403)
    assert await reader("GET", "/api/speed-test/results") == []


async def test_without_redis(redis_server: Any, new_control: Any, new_api: NewApi) -> None:
    opened = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    control = new_control(opened)
    ask = asking(await new_api(control, speed=ENDPOINT))
    redis_server.stop()
    assert (await ask("POST", f"/api/speed-test/{JP}", 503))["reason"] == "registry_down"
    assert (await ask("GET", "/api/speed-test/results", 503))["reason"] == "registry_down"
    await control.close()
    await opened.close()

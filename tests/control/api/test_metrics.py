"""/metrics: what is counted, and who may read it."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.control.api.conftest import Client, NewApi


async def read(api: Any) -> dict[tuple[str, ...], float]:
    """Values by name and labels, the labels in the order of their names."""
    text = await (await api.get("/metrics")).text()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests_changes_and_the_fleet_are_counted(api: Any, ask: Client, fleet: Any) -> None:
    await ask("POST", "/api/pools/jp/scale", json={"nodes": 1})
    await fleet.serving()
    await ask("PUT", "/api/pools/xx", 400, json={})
    await ask("GET", "/api/nothing", 404)
    found = await read(api)
    assert found["vpnexit_control_requests_total", "pool.scale", "200"] == 1
    assert found["vpnexit_control_requests_total", "none", "404"] == 1
    assert found["vpnexit_control_request_seconds_total", "pool.scale", "200"] > 0
    assert found["vpnexit_control_changes_total", "yes", "pool.scale"] == 1
    assert found["vpnexit_control_changes_total", "no", "pool.change"] == 1
    assert found["vpnexit_control_nodes", "jp", "running"] == 1
    assert found["vpnexit_control_desired_nodes", "jp"] == found["vpnexit_control_serving_nodes", "jp"] == 1
    assert found["vpnexit_control_registry_up",] == found["vpnexit_control_leader",] == 1


async def test_labels_do_not_grow_with_what_is_asked(api: Any) -> None:
    for number in range(20):
        await api.get(f"/api/nothing/{number}")
        await api.get(f"/api/nodes/jp{number:06x}")
    assert len([key for key in await read(api) if key[0] == "vpnexit_control_requests_total"]) <= 3


async def test_it_takes_scope_read_also_on_loopback(ask: Client, fleet: Any, new_api: NewApi) -> None:
    stranger = await new_api(fleet, {})
    assert (await stranger.get("/metrics")).status == 401
    token = await ask("POST", "/api/tokens", 201, json={"name": "prometheus", "scope": "read"})
    scraper = await new_api(fleet, {"Authorization": f"Bearer {token['token']}"})
    assert (await read(scraper))["vpnexit_control_registry_up",] == 1


async def test_it_is_open_where_the_configuration_says_so_and_nothing_else_is(fleet: Any, new_api: NewApi) -> None:
    await fleet.registry.begin_epoch()
    stranger = await new_api(fleet, {}, metrics_open=True)
    assert (await read(stranger))["vpnexit_control_registry_up",] == 1
    assert (await stranger.get("/api/nodes")).status == 401

"""/api/pools and /api/countries."""

from pathlib import Path
from typing import Any

import pytest
import structlog

from control.recovery import Keeper
from health.model import NodeStatus, Pool
from tests.control.api.conftest import Client


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


async def test_countries_are_those_of_the_provider_and_of_the_fleet(ask: Client, fleet: Any) -> None:
    await ask("PUT", "/api/pools/de", json={"max": 2})
    assert await ask("GET", "/api/countries") == ["de", "gb", "jp", "us"]
    fleet.world.provider.trouble = "/v1/servers/countries failed: \r\nX: y"
    assert await ask("GET", "/api/countries") == ["de"]


async def test_a_pool_is_changed_only_if_it_is_the_one_that_was_read(api: Any, ask: Client) -> None:
    made = await api.put("/api/pools/jp", json={"max": 3}, headers={"If-Match": '"0"'})
    assert (made.status, made.headers["ETag"]) == (200, '"1"')
    assert (await api.get("/api/pools/jp")).headers["ETag"] == '"1"'
    for known in ('"0"', '"2"', "nonsense", '""', "\u00b9"):
        stale = await ask("PUT", "/api/pools/jp", 409, json={"max": 4}, headers={"If-Match": known})
        assert stale["reason"] == "stale_version"
    await ask("PUT", "/api/pools/jp", 409, json={"max": 4, "version": 0}, headers={"If-Match": '"1"'})
    await ask("POST", "/api/pools/jp/scale", 409, json={"nodes": 1}, headers={"If-Match": '"0"'})
    assert (await ask("GET", "/api/pools/jp"))["max"] == 3
    assert (await ask("PUT", "/api/pools/jp", json={"max": 4}, headers={"If-Match": "*"}))["max"] == 4
    assert (await ask("POST", "/api/pools/jp/scale", json={"nodes": 1}, headers={"If-Match": '"2"'}))["desired"] == 1


async def test_rotation_by_age_and_scaling_by_load_are_set_and_taken_back(ask: Client) -> None:
    made = await ask("PUT", "/api/pools/jp", json={"rotate_hours": 12, "target_connections": 200})
    assert (made["rotate_hours"], made["target_connections"]) == (12, 200)
    kept = await ask("PUT", "/api/pools/jp", json={"max": 4, "desired": None})
    assert (kept["rotate_hours"], kept["target_connections"], kept["desired"]) == (12, 200, 0)
    gone = await ask("PUT", "/api/pools/jp", json={"rotate_hours": None, "target_connections": None})
    assert (gone["rotate_hours"], gone["target_connections"]) == (None, None)
    await ask("PUT", "/api/pools/jp", 400, json={"rotate_hours": 0})
    await ask("PUT", "/api/pools/jp", 400, json={"target_connections": "many"})


async def test_rotate_replaces_every_node_of_a_country(ask: Client, fleet: Any) -> None:
    assert (await ask("POST", "/api/pools/jp/rotate", 404))["reason"] == "not_found"
    await ask("POST", "/api/pools/jp/scale", json={"nodes": 2})
    old = {node.id for node in await fleet.serving(count=2)}
    pool = await ask("POST", "/api/pools/jp/rotate", 202, json={})
    assert (pool["country"], pool["desired"]) == ("jp", 2)

    async def fresh() -> bool:
        await fleet.later(10)
        nodes = (await fleet.registry.nodes()).values()
        serving = {node.id for node in nodes if node.status is NodeStatus.SERVING}
        return len(serving) == 2 and not serving & old

    await fleet.settle(fresh)


async def test_limits_that_exclude_the_number_wished_for_say_what_to_do(ask: Any) -> None:
    assert (await ask("PUT", "/api/pools/jp", 409, json={"min": 3, "max": 1}))["detail"] == (
        "pool jp: its min of 3 is above its max of 1"
    )
    assert (await ask("PUT", "/api/pools/jp", 409, json={"min": 2, "desired": 1}))["detail"] == (
        "pool jp: desired 1 is not between min 2 and max 10"
    )


async def test_a_number_nobody_names_follows_new_limits(ask: Any) -> None:
    assert (await ask("PUT", "/api/pools/jp", json={"min": 2}))["desired"] == 2
    assert (await ask("PUT", "/api/pools/jp", json={"min": 0}))["desired"] == 2
    assert (await ask("PUT", "/api/pools/jp", json={"max": 1}))["desired"] == 1


async def test_a_change_that_changes_nothing_is_no_new_version(ask: Client) -> None:
    made = await ask("PUT", "/api/pools/jp", json={"max": 3})
    for body in ({}, {"max": 3}, {"max": 3, "version": 1, "desired": None}):
        assert await ask("PUT", "/api/pools/jp", json=body) == made
    assert await ask("POST", "/api/pools/jp/scale", json={"nodes": 0}) == made
    await ask("PUT", "/api/pools/jp", 409, json={"version": 7})


async def test_a_pool_goes_only_once_nothing_is_left_of_it(api: Any, ask: Client, fleet: Any) -> None:
    assert (await ask("DELETE", "/api/pools/jp", 404))["reason"] == "not_found"
    await ask("POST", "/api/pools/jp/scale", json={"nodes": 1})
    (node,) = await fleet.serving()
    wanted = await ask("DELETE", "/api/pools/jp", 409)
    assert wanted["reason"] == "in_use"
    assert wanted["detail"] == "pool jp wants 1 nodes: set desired to 0 first, then remove it"
    await ask("POST", "/api/pools/jp/scale", json={"nodes": 0})
    assert node.id in (await ask("DELETE", "/api/pools/jp", 409))["detail"]

    async def ended() -> bool:
        await fleet.later(60)
        return all(node.status.ended for node in (await fleet.registry.nodes()).values())

    await fleet.settle(ended)
    tag = (await api.get("/api/pools/jp")).headers["ETag"]
    assert (await ask("DELETE", "/api/pools/jp", 409, headers={"If-Match": '"1"'}))["reason"] == "stale_version"
    gone = await ask("DELETE", "/api/pools/jp", headers={"If-Match": tag})
    assert gone == {"status": "deleted", "name": "jp"}
    assert await ask("GET", "/api/pools") == []


async def test_a_removed_pool_is_gone_from_the_copy_on_disk_and_stays_gone(
    ask: Client, fleet: Any, tmp_path: Path
) -> None:
    await ask("PUT", "/api/pools/jp", json={"max": 3})
    await fleet.later(0)
    copy, _ = await Keeper(tmp_path).load()
    assert [pool.country for pool in copy.pools] == ["jp"]
    with structlog.testing.capture_logs() as logs:
        await ask("DELETE", "/api/pools/jp")
    assert [(line["what"], line["subject"]) for line in logs if line["event"] == "audit"] == [("pool.remove", "jp")]
    await fleet.later(0)
    assert (await Keeper(tmp_path).load())[0].pools == ()
    assert await fleet.registry.pools() == {}


async def test_a_pool_that_is_scaled_up_meanwhile_stays(
    ask: Client, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask("PUT", "/api/pools/jp", json={"max": 3})
    remove = fleet.registry.removal.pool

    async def late(pool: Pool) -> bool:
        monkeypatch.undo()
        await fleet.registry.put_pool(pool.model_copy(update={"desired": 1}))
        return bool(await remove(pool))

    monkeypatch.setattr(fleet.registry.removal, "pool", late)
    assert (await ask("DELETE", "/api/pools/jp", 409))["reason"] == "in_use"
    assert (await fleet.registry.pools())["jp"].desired == 1

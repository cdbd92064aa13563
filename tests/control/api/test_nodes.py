"""/api/nodes: start, stop, restart, list, logs, score."""

import asyncio
import gzip
import json
import math
from typing import Any

import pytest

from health.evidence import Seen
from health.model import Node, NodeKind, NodeStatus, Sample, Score, Tunnel
from health.registry import Registry
from health.score import MEANING, State, judge
from tests.control.api.conftest import Client


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
        *("metrics", "virtual"),
    ):
        assert field in shown
    assert (shown["vpn_connected"], shown["health_status"], shown["score"]) == (True, "healthy", 88.0)
    assert shown["started_at"] == "1970-01-01T00:00:00.000+00:00"
    assert shown["metrics"]["network_rx"] == 7


async def test_restart_names_the_successor_which_takes_over(ask: Client, fleet: Any) -> None:
    await ask("POST", "/api/nodes/jp/start", 202)
    (old,) = await fleet.serving()
    answer = await ask("POST", f"/api/nodes/{old.id}/restart", 202, json={})
    assert (answer["status"], answer["country"]) == ("starting", "jp")
    assert answer["node_id"] != old.id
    assert (await ask("GET", "/api/pools/jp"))["desired"] == 1

    async def taken_over() -> bool:
        nodes = await fleet.registry.nodes()
        return nodes[answer["node_id"]].status is NodeStatus.SERVING and nodes[old.id].status is NodeStatus.DRAINING

    await fleet.settle(taken_over)
    assert (await ask("POST", "/api/nodes/jp00ff00/restart", 404))["reason"] == "not_found"


async def put_nodes(registry: Registry, **counts: int) -> list[Node]:
    """So many serving nodes of each country, oldest first."""
    made = [
        Node(
            id=f"{country}{number:06x}",
            country=country,
            kind=NodeKind.VPN,
            machine="elsewhere",
            status=NodeStatus.FAILED if number == 0 else NodeStatus.SERVING,
            reason="its tunnel did not come up" if number == 0 else "",
            requested_at=float(number),
        )
        for country, count in counts.items()
        for number in range(count)
    ]
    for node in made:
        await registry.put_node(node)
    return made


async def test_the_list_in_pieces(api: Any, ask: Client, registry: Registry) -> None:
    made = await put_nodes(registry, gb=2, jp=5)
    ids = [node.id for node in made]
    assert [node["id"] for node in await ask("GET", "/api/nodes")] == ids
    for limit, offset in ((3, 0), (3, 3), (3, 6), (10, 5), (1, 7)):
        answer = await api.get("/api/nodes", params={"limit": limit, "offset": offset})
        assert [node["id"] for node in await answer.json()] == ids[offset : offset + limit]
        assert answer.headers["X-Total-Count"] == "7"
    answer = await api.get("/api/nodes?country=UK&limit=1")
    assert [node["id"] for node in await answer.json()] == ids[:1]
    assert answer.headers["X-Total-Count"] == "2"
    failed = await ask("GET", "/api/nodes?status=error")
    assert [(node["id"], node["health_status"], node["reason"]) for node in failed] == [
        ("gb000000", "unhealthy", "its tunnel did not come up"),
        ("jp000000", "unhealthy", "its tunnel did not come up"),
    ]
    assert len(await ask("GET", "/api/nodes?country=jp&status=running")) == 4


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=10001",
        "offset=-1",
        "country=xx",
        "status=up",
        "limit=1&limit=2",
        "page=1",
    ],
)
async def test_pieces_that_cannot_be(ask: Client, query: str) -> None:
    refused = await ask("GET", f"/api/nodes?{query}", 400)
    assert refused["detail"].startswith(query.partition("=")[0])


async def test_a_list_that_did_not_change_is_not_sent_again(api: Any, registry: Registry) -> None:
    await put_nodes(registry, jp=30)
    first = await api.get("/api/nodes")
    tag = first.headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await api.get("/api/nodes", headers={"If-None-Match": known})
        assert (again.status, again.headers["ETag"], await again.read()) == (304, tag, b"")
    await registry.put_node((await put_nodes(registry, us=1))[0])
    changed = await api.get("/api/nodes", headers={"If-None-Match": tag})
    assert changed.status == 200
    assert changed.headers["ETag"] != tag
    part = await api.get("/api/nodes?country=jp")
    again = await api.get("/api/nodes?country=jp", headers={"If-None-Match": part.headers["ETag"]})
    assert again.status == 304


async def test_the_list_by_gzip_is_the_same(api: Any, registry: Registry) -> None:
    await put_nodes(registry, jp=30)
    plain = await api.get("/api/nodes", headers={"Accept-Encoding": "identity"}, auto_decompress=False)
    packed = await api.get("/api/nodes", headers={"Accept-Encoding": "gzip"}, auto_decompress=False)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    body = await packed.read()
    assert gzip.decompress(body) == await plain.read()
    assert int(packed.headers["Content-Length"]) == len(body)
    assert len(json.loads(gzip.decompress(body))) == 30


async def test_every_term_of_a_score(ask: Client, registry: Registry) -> None:
    (node,) = await put_nodes(registry, jp=1)
    nothing = await ask("GET", f"/api/nodes/{node.id}/score")
    assert (nothing["score"], nothing["terms"], nothing["scored_at"]) == (None, {}, None)
    terms = {"up": 1.0, "latency": 0.9, "delivery": 0.97, "handshake": 1.0, "health": 4.0}
    await registry.put_scores([Score(node=node.id, at=1.0, value=87.3, healthy=True, terms=terms, latency_ms=27.0)])
    await registry.put_samples("m1", [Sample(node=node.id, at=1.0, reachable=True, tunnel=Tunnel.UP, loss=0.01)])
    found = await ask("GET", f"/api/nodes/{node.id}/score")
    assert (found["node_id"], found["score"], found["terms"], found["latency_ms"]) == (node.id, 87.3, terms, 27.0)
    assert found["metrics"]["loss"] == 0.01
    assert found["explained"]["latency"]["input"] is None, "a score of an older scorer has no inputs"


async def test_every_term_of_a_score_has_its_value_its_input_and_what_it_means(ask: Client, registry: Registry) -> None:
    (node,) = await put_nodes(registry, jp=1)
    sample = Sample(
        node=node.id, at=1.0, reachable=True, tunnel=Tunnel.UP, kill_switch=True, probe_ms=50.0, loss=0.1, dns_ok=True
    )
    _, score = judge(State(), sample, 0.0, Seen(failures=0.2, dials=50.0, dial_ms=61.0, in_flight=4))
    await registry.put_scores([score.model_copy(update={"ejected": "failures"})])
    found = await ask("GET", f"/api/nodes/{node.id}/score")
    assert found["explained"].keys() == found["terms"].keys() == MEANING.keys()
    for name, term in found["explained"].items():
        assert (term["value"], term["meaning"]) == (found["terms"][name], MEANING[name])
    inputs = {name: term["input"] for name, term in found["explained"].items()}
    assert (inputs["latency"], inputs["delivery"], inputs["failures"], inputs["load"]) == (50.0, 0.1, 0.2, None)
    factors = [term["value"] for name, term in found["explained"].items() if name != "health"]
    assert found["score"] == pytest.approx(100 * math.prod(factors), abs=0.01)
    assert found["ejected"] == "failures"
    assert found["seen"] == {"dials": 50.0, "dial_ms": 61.0, "in_flight": 4.0}


async def test_an_unknown_node_has_no_score(ask: Client) -> None:
    await ask("GET", "/api/nodes/jp00ff00/score", 404)

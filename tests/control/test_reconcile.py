"""The loop over a fake engine and a real Redis: what must hold when things go wrong."""

import asyncio
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis

from control.engine import EngineError, ImageMissingError
from control.model import LABEL, Outcome, Verdict
from health.config import RedisSettings
from health.model import Node, NodeStatus, Pool, User
from health.registry import PREFIX, Registry


async def ended(control: Any, node_id: str) -> Node:
    async def found() -> Node | None:
        record = await control.registry.node(node_id)
        return record if record is not None and record.status.ended else None

    node: Node = await control.settle(found)
    return node


async def test_an_empty_registry_is_declared_complete(fleet: Any) -> None:
    await fleet.settle(fleet.registry.epoch)
    assert fleet.reconciler.leader


async def test_a_wish_becomes_serving_nodes(fleet: Any) -> None:
    await fleet.pool(2)
    first, second = await fleet.serving(count=2)
    assert (first.slot, second.slot) == ("jp-0", "jp-1")
    assert first.vpn_server != second.vpn_server
    assert first.exit_ip
    assert (first.exit_country, first.generation) == ("jp", 1)
    assert first.started_at is not None
    assert first.agent == fleet.files.agent_socket(first.id)
    assert fleet.world.engine.running == sorted([first.id, second.id])
    labels = fleet.world.engine.bodies[first.id]["Labels"]
    assert labels[LABEL + "epoch"] == await fleet.registry.epoch()
    told = json.loads((fleet.files.config_dir(first.id) / "node.json").read_text())
    assert told["endpoint"] == {"address": "198.18.10.11", "port": 51820, "transport": "udp"}
    assert told["probe_name"] == "probe.example"


async def test_the_secret_is_nowhere_but_in_its_file(fleet: Any) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    assert (fleet.files.config_dir(node.id) / "auth.txt").read_bytes() == b"user\nsecret-password\n"
    everything = json.dumps(fleet.world.engine.bodies) + (await fleet.registry.node(node.id)).dump()
    assert "secret-password" not in everything


async def test_a_killed_node_fails_with_its_last_words_and_is_replaced_at_once(fleet: Any) -> None:
    await fleet.pool(2)
    victim, other = await fleet.serving(count=2)
    fleet.world.engine.output = 'x\n{"event": "ended", "reason": "the VPN program ended with status 1"}\n'
    began = time.monotonic()
    fleet.world.engine.kill(victim.id, 67)
    dead = await ended(fleet, victim.id)
    assert dead.status is NodeStatus.FAILED
    assert dead.reason == "the VPN program ended with status 1"
    nodes = await fleet.serving(count=2)
    assert time.monotonic() - began < 10  # nobody waited for the next look a minute later
    assert victim.vpn_server not in {node.vpn_server for node in nodes}
    assert other.id in {node.id for node in nodes}
    assert {node.slot for node in nodes} == {"jp-0", "jp-1"}
    await fleet.settle(lambda: _gone(fleet, victim.id))
    assert "ended with status 1" in fleet.files.log(victim.id)


async def _gone(fleet: Any, node_id: str) -> bool:
    return fleet.world.engine.of(node_id) is None and not fleet.files.config_dir(node_id).exists()


async def test_a_restarted_control_finds_its_nodes_and_starts_nothing_twice(
    fleet: Any, new_control: Callable[..., Any]
) -> None:
    await fleet.pool(2)
    before = await fleet.serving(count=2)
    await fleet.close()
    again = new_control()
    for _ in range(5):
        await again.reconciler.tick()
        await again.reconciler.settle()
    assert [node.id for node in await again.serving(count=2)] == [node.id for node in before]
    assert again.world.engine.calls.count("create") == 2
    assert "stop" not in again.world.engine.calls


@pytest.mark.parametrize("last_call", ["create", "start"])
async def test_control_killed_in_the_middle_of_a_create_leaves_nothing_twice(
    fleet: Any, new_control: Callable[..., Any], last_call: str
) -> None:
    engine = fleet.world.engine
    await fleet.pool(1)
    await fleet.reconciler.tick()
    await fleet.reconciler.settle()
    (node,) = (await fleet.registry.nodes()).values()
    container_id = await fleet.steps._creator.make(node, "")
    if last_call == "start":
        await engine.start(container_id)
    await fleet.close()
    (survivor,) = await new_control().serving()
    assert survivor.id == node.id
    assert engine.calls.count("create") == 1


async def test_a_second_instance_waits_for_the_lease_and_takes_over(
    fleet: Any, new_control: Callable[..., Any]
) -> None:
    second = new_control()
    await fleet.pool(1)
    await fleet.reconciler.tick()
    await second.reconciler.tick()
    assert fleet.reconciler.leader
    assert not second.reconciler.leader
    await fleet.close()
    await second.serving()
    assert second.reconciler.leader


@pytest.mark.usefixtures("everybody_leads")
async def test_two_that_both_believe_to_lead_make_one_node(fleet: Any, new_control: Callable[..., Any]) -> None:
    second = new_control()
    await fleet.pool(3)
    for _ in range(12):
        await asyncio.gather(fleet.reconciler.tick(), second.reconciler.tick())
        await asyncio.gather(fleet.reconciler.settle(), second.reconciler.settle())
    assert fleet.reconciler.leader
    assert second.reconciler.leader
    nodes = await fleet.serving(count=3)
    assert fleet.world.engine.running == sorted(node.id for node in nodes)
    assert len(fleet.world.engine.bodies) == 3


async def test_docker_gone_touches_nothing_and_comes_back(fleet: Any) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    fleet.world.engine.gone = True
    await fleet.pool(3)
    for _ in range(3):
        await fleet.reconciler.tick()
    assert fleet.reconciler.trouble("jp") == "Docker does not answer"
    assert set(await fleet.registry.nodes()) == {node.id}
    fleet.world.engine.gone = False
    assert node.id in {n.id for n in await fleet.serving(count=3)}
    assert fleet.reconciler.trouble("jp") == ""


async def test_a_missing_image_is_told_and_backed_off(fleet: Any) -> None:
    fleet.world.engine.refusal = ImageMissingError("image exit-image is missing: build it first")
    await fleet.pool(1)
    began = fleet.world.clock()
    for _ in range(20):
        await fleet.later(0.02)
    assert fleet.reconciler.trouble("jp") == "image exit-image is missing: build it first"
    # 100 ms at first, a quarter less by chance, and twice as long each time.
    most = 2 + math.log2(1 + (fleet.world.clock() - began) / 0.075)
    assert 2 <= fleet.world.engine.calls.count("create") <= most
    fleet.world.engine.refusal = None
    await fleet.serving()


async def test_a_name_taken_by_a_foreign_container_fails_that_node_alone(fleet: Any) -> None:
    await fleet.pool(1)
    await fleet.reconciler.tick()
    await fleet.reconciler.settle()
    (node,) = (await fleet.registry.nodes()).values()
    fleet.world.engine.foreign_names.add(f"vpnexit-{node.id}")
    assert "taken by a container that is not ours" in (await ended(fleet, node.id)).reason
    await fleet.serving()
    assert fleet.world.engine.calls.count("remove") == 0


async def test_a_provider_in_trouble_is_told_and_retried(fleet: Any) -> None:
    fleet.world.provider.trouble = "every account is in full use: acct 10/10"
    await fleet.pool(1)
    for _ in range(5):
        await fleet.reconciler.tick()
        await fleet.reconciler.settle()
    assert fleet.reconciler.trouble("jp") == fleet.world.provider.trouble
    assert await fleet.registry.nodes() == {}
    fleet.world.provider.trouble = ""
    await fleet.serving()
    assert fleet.reconciler.trouble("jp") == ""


async def test_a_node_in_the_wrong_country_never_serves(fleet: Any) -> None:
    fleet.world.verdicts["jp"] = Verdict(Outcome.REFUTED, 1, "its exit 203.0.113.1 is in us, not in jp")
    await fleet.pool(1)
    await fleet.reconciler.tick()
    await fleet.reconciler.settle()
    (node,) = (await fleet.registry.nodes()).values()
    failed = await ended(fleet, node.id)
    assert failed.status is NodeStatus.FAILED
    assert failed.reason == "its exit 203.0.113.1 is in us, not in jp"
    assert failed.exit_ip == ""
    del fleet.world.verdicts["jp"]
    await fleet.serving()


async def test_a_serving_node_that_leaks_ends_at_once_and_one_abroad_drains(fleet: Any) -> None:
    await fleet.pool(2)
    leaking, abroad = await fleet.serving(count=2)
    verdicts = fleet.world.verdicts
    verdicts[leaking.id] = Verdict(Outcome.REFUTED, 1, "leaves from this machine's own address", leak=True)
    verdicts[abroad.id] = Verdict(Outcome.REFUTED, 1, "its exit is in us", "203.0.113.99", "us")
    await fleet.later(61)
    dead = await ended(fleet, leaking.id)
    assert dead.reason == "leaves from this machine's own address"
    draining = await fleet.registry.node(abroad.id)
    assert draining.status is NodeStatus.DRAINING
    assert abroad.id in fleet.world.engine.running
    await fleet.later(31)
    assert (await ended(fleet, abroad.id)).reason == "its exit is in us"
    await fleet.serving(count=2)


async def test_a_tunnel_that_comes_back_is_verified_again_and_kept(fleet: Any) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    fleet.world.tunnel(node.id, "down", 1)
    await fleet.later(9)
    await fleet.reconciler.tick()
    fleet.world.tunnel(node.id, "up", 2)
    asked = len(fleet.world.gate.asked)

    async def renewed() -> bool:
        return bool((await fleet.registry.node(node.id)).generation == 2)

    await fleet.settle(renewed)
    assert len(fleet.world.gate.asked) == asked + 1
    assert fleet.world.engine.running == [node.id]


async def test_a_tunnel_down_for_longer_than_twenty_seconds_is_replaced(fleet: Any) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    fleet.world.tunnel(node.id, "down", 1)
    await fleet.later(20.5)
    assert "tunnel down for 20 s" in (await ended(fleet, node.id)).reason
    (successor,) = await fleet.serving()
    assert successor.id != node.id


async def test_an_agent_that_falls_silent_counts_as_a_tunnel_down(fleet: Any) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    fleet.world.silent.add(node.id)
    fleet.world.agents[node.id].lost()
    await fleet.reconciler.tick()
    await fleet.later(20.5)
    await ended(fleet, node.id)
    await fleet.serving()


async def test_a_node_that_never_comes_up_is_given_up_after_its_time(fleet: Any) -> None:
    await fleet.pool(1)

    async def starting() -> Node | None:
        found = list((await fleet.registry.nodes()).values())
        for node in found:
            fleet.world.tunnels[node.id] = ("starting", 0)
        return found[0] if found and found[0].status is NodeStatus.STARTING else None

    node = await fleet.settle(starting)
    await fleet.later(31)
    assert "tunnel not up within 30 s" in (await ended(fleet, node.id)).reason


async def test_ended_records_are_forgotten_after_ten_minutes(fleet: Any) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    fleet.world.engine.kill(node.id)
    await fleet.serving()
    assert node.id in await fleet.registry.nodes()
    await fleet.settle(lambda: _gone(fleet, node.id))
    await fleet.later(601)

    async def forgotten() -> bool:
        return node.id not in await fleet.registry.nodes()

    await fleet.settle(forgotten)
    assert fleet.files.log(node.id) == ""


async def test_scaling_down_drains_and_frees_everything(fleet: Any) -> None:
    await fleet.pool(3)
    await fleet.serving(count=3)
    await fleet.pool(1)
    await fleet.serving(count=1)
    assert len(fleet.world.engine.running) == 3
    await fleet.later(31)

    async def one_left() -> bool:
        return len(fleet.world.engine.found) == 1

    await fleet.settle(one_left)
    (left,) = await fleet.serving()
    assert left.slot == "jp-0"


async def test_orphans_of_our_fleet_are_removed(fleet: Any) -> None:
    await fleet.registry.begin_epoch()
    body = {"Labels": {LABEL + "node": "jp0000aa", LABEL + "country": "jp", LABEL + "slot": "jp-0"}}
    await fleet.world.engine.start(await fleet.world.engine.create("vpnexit-jp0000aa", body, "m1"))

    async def removed() -> bool:
        return not fleet.world.engine.found

    await fleet.settle(removed)


async def test_a_docker_event_wakes_the_loop(new_control: Callable[..., Any]) -> None:
    control = new_control(tick=10)
    await control.pool(1)
    stop = asyncio.Event()
    running = asyncio.create_task(control.reconciler.run(stop))
    try:
        await _until(lambda: bool(control.world.engine.running))
        await asyncio.wait_for(_serving(control), 8)
        (first,) = control.world.engine.running
        control.world.engine.kill(first)
        await _until(lambda: control.world.engine.running not in ([], [first]))
    finally:
        stop.set()
        await running


async def _serving(control: Any) -> None:
    while not any(n.status is NodeStatus.SERVING for n in (await control.registry.nodes()).values()):
        await asyncio.sleep(0.01)


async def _until(condition: Callable[[], bool], within: float = 8.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_redis_gone_and_back_empty_is_refilled_before_it_counts(
    redis_server: Any, new_control: Callable[..., Any]
) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    control = new_control(registry)
    try:
        await control.pool(2, fallback=("us",))
        await registry.put_user(User(name="alice", password_hash="h"))
        before = await control.serving(count=2)
        await control.reconciler.tick()
        redis_server.stop()
        for _ in range(3):
            await control.reconciler.tick()
        assert control.reconciler.redis_trouble
        assert len(control.world.engine.running) == 2
        redis_server.start()
        await control.settle(registry.epoch)
        after = await registry.snapshot()
        assert {i: (n.status, n.vpn_server) for i, n in after.nodes.items()} == {
            n.id: (NodeStatus.SERVING, n.vpn_server) for n in before
        }
        assert (after.pools["jp"].desired, after.pools["jp"].fallback) == (2, ("us",))
        assert set(after.users) == {"alice"}
        await control.serving(count=2)
        assert control.world.engine.calls.count("create") == 2
    finally:
        await control.close()
        await registry.close()


async def test_without_the_copy_containers_are_adopted_by_label_and_verified(
    fleet: Any, new_control: Callable[..., Any], shared_redis: Any, tmp_path: Path
) -> None:
    await fleet.pool(2)
    before = await fleet.serving(count=2)
    await fleet.close()
    assert shared_redis.command("FLUSHALL") == "+OK"
    (tmp_path / "fleet.json").write_text("not JSON")
    again = new_control()
    after = await again.serving(count=2)
    assert {n.id: n.slot for n in after} == {n.id: n.slot for n in before}
    assert (await again.registry.pools())["jp"].desired == 2
    assert again.world.engine.calls.count("create") == 2


async def test_a_hanging_redis_costs_a_round_not_the_process(
    redis_server: Any, new_control: Callable[..., Any]
) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=0.5))
    control = new_control(registry)
    try:
        await control.pool(1)
        await control.serving()
        redis_server.pause()
        began = time.monotonic()
        await control.reconciler.tick()
        assert time.monotonic() - began < 5
        assert control.reconciler.redis_trouble
        redis_server.resume()
        await control.serving()
    finally:
        await control.close()
        await registry.close()


async def test_direct_nodes_come_and_go_with_the_configuration(new_control: Callable[..., Any]) -> None:
    one = new_control(engine="none", direct_nodes=("zz", "jp"))
    await one.settle(lambda: _count(one, 2))
    first = await one.registry.nodes()
    assert {(n.country, n.kind.value, n.status) for n in first.values()} == {
        ("zz", "direct", NodeStatus.SERVING),
        ("jp", "direct", NodeStatus.SERVING),
    }
    await one.close()
    two = new_control(engine="none", direct_nodes=("zz",))
    await two.settle(lambda: _count(two, 1))
    (left,) = (await two.registry.nodes()).values()
    assert left.country == "zz"
    assert left.id in first
    assert two.world.engine.calls == []


async def _count(control: Any, count: int) -> bool:
    return len(await control.registry.nodes()) == count


async def test_an_engine_that_breaks_in_a_step_does_not_end_the_loop(fleet: Any) -> None:
    await fleet.pool(1)
    fleet.world.engine.refusal = RuntimeError("a bug")
    for _ in range(4):
        await fleet.reconciler.tick()
        await fleet.reconciler.settle()
    fleet.world.engine.refusal = EngineError("no space left on device")
    await fleet.settle(lambda: _reason(fleet, "no space left on device"))
    fleet.world.engine.refusal = None
    await fleet.serving()


async def _reason(fleet: Any, text: str) -> bool:
    return any(node.reason == text for node in (await fleet.registry.nodes()).values())


async def test_pools_of_other_countries_do_not_wait_for_each_other(fleet: Any) -> None:
    await fleet.registry.begin_epoch()
    for country in ("jp", "us", "gb"):
        await fleet.registry.put_pool(Pool(country=country, desired=1))
    for country in ("jp", "us", "gb"):
        await fleet.serving(country)


async def test_a_node_whose_record_cannot_be_read_keeps_its_container_and_its_files(
    fleet: Any, new_control: Callable[..., Any], redis_url: str
) -> None:
    await fleet.pool(1)
    (old,) = await fleet.serving()
    await fleet.close()
    key = PREFIX + f"node:{old.id}"
    async with aioredis.from_url(redis_url, decode_responses=True) as client:
        newer = json.loads(await client.get(key)) | {"schema": 2}
        await client.set(key, json.dumps(newer))
    second = new_control()
    await second.pool(0)
    for _ in range(3):
        await second.reconciler.tick()
        await second.reconciler.settle()
    assert second.reconciler.leader
    assert fleet.world.engine.running == [old.id]
    assert second.files.read(old.id) is not None


async def test_who_lost_the_lead_while_reading_the_copy_restores_nothing(fleet: Any, registry: Registry) -> None:
    await fleet.pool(1)
    await fleet.serving()
    await registry.put_user(User(name="alice", password_hash="hash"))
    await fleet.reconciler.tick()
    copy = await fleet.reconciler._keeper.load()
    assert [user.name for user in copy[0].users] == ["alice"]
    await registry._redis.flushall()

    async def slow() -> Any:
        await registry._redis.delete(PREFIX + "lease:reconciler")
        await registry.acquire("reconciler", "somebody", 30)
        return copy

    fleet.reconciler._keeper.load = slow
    await fleet.reconciler.tick()
    assert await registry.users() == {}
    assert await registry.epoch() == ""


async def test_a_wish_that_is_taken_back_leaves_no_trouble(fleet: Any) -> None:
    fleet.world.provider.trouble = "no free server in jp"
    await fleet.pool(1)

    async def told(reason: str) -> bool:
        return bool(fleet.reconciler.trouble("jp") == reason)

    await fleet.settle(lambda: told("no free server in jp"))
    await fleet.pool(0)
    await fleet.settle(lambda: told(""))
    assert (await fleet.registry.troubles()).get("jp", "") == ""


async def test_a_place_that_failed_and_is_not_wished_for_any_more_leaves_no_trouble(fleet: Any) -> None:
    await fleet.pool(2)
    first, second = await fleet.serving(count=2)
    fleet.world.provider.trouble = "no free server in jp"
    fleet.world.engine.kill(second.id, 70)
    await ended(fleet, second.id)

    async def quiet() -> bool:
        return not fleet.reconciler.trouble("jp")

    assert not await quiet()
    await fleet.pool(1)
    await fleet.settle(quiet)
    assert fleet.world.engine.running == [first.id]

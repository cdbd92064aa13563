"""The fault table: what happens is told in plain words, in the record, in the log and as an event; nothing is lost."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from control.engine import ImageMissingError
from control.engine.docker import DockerEngine
from control.model import LABEL, Outcome, Verdict
from health.config import RedisSettings
from health.model import Node, NodeKind, NodeStatus, User
from health.registry import Registry
from tests.control.told import Told


async def rounds(control: Any, count: int, seconds: float = 1.0) -> None:
    for _ in range(count):
        await control.later(seconds)


async def test_every_change_of_a_node_is_told_with_its_reason(fleet: Any, told: Told) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    fleet.world.verdicts[node.id] = Verdict(Outcome.REFUTED, 1, "its exit 203.0.113.9 is in us", "203.0.113.9", "us")
    await fleet.later(61)
    await rounds(fleet, 3)
    await fleet.later(31)
    await rounds(fleet, 3)
    await told.caught_up()
    changes = [(e["was"], e["status"], e["reason"]) for e in told.of("node") if e["subject"] == node.id]
    assert changes == [
        ("", "requested", ""),
        ("requested", "starting", ""),
        ("starting", "verifying", ""),
        ("verifying", "serving", ""),
        ("serving", "draining", "its exit 203.0.113.9 is in us"),
        ("draining", "failed", "its exit 203.0.113.9 is in us"),
    ]
    assert {e["country"] for e in told.of("node")} == {"jp"}


async def test_a_missing_image_is_told_in_plain_words(fleet: Any, told: Told) -> None:
    fleet.world.engine.refusal = ImageMissingError("image exit-image is missing: build it first")
    await fleet.pool(1)
    await rounds(fleet, 3)
    await told.caught_up()
    failed = [e["reason"] for e in told.of("node") if e["status"] == "failed"]
    assert failed
    assert set(failed) == {"image exit-image is missing: build it first"}


async def test_a_container_that_exits_at_once_is_told_and_tried_ever_more_rarely(fleet: Any, told: Told) -> None:
    engine = fleet.world.engine
    engine.output = '{"event": "ended", "reason": "no route to the VPN server"}\n'
    start = engine.start

    async def ends(container_id: str) -> None:
        await start(container_id)
        engine._set(container_id, "exited", 70)

    engine.start = ends
    await fleet.pool(1)
    await rounds(fleet, 120, 0.25)
    await told.caught_up()
    failed = [e["reason"] for e in told.of("node") if e["status"] == "failed"]
    assert set(failed) == {"no route to the VPN server"}
    assert 4 <= len(failed) <= 10
    assert fleet.reconciler.trouble("jp") == "no route to the VPN server"


async def test_a_tunnel_that_never_comes_up_is_told(fleet: Any, told: Told) -> None:
    await fleet.pool(1)

    async def starting() -> Node | None:
        found = list((await fleet.registry.nodes()).values())
        for node in found:
            fleet.world.tunnels[node.id] = ("starting", 0)
        return found[0] if found and found[0].status is NodeStatus.STARTING else None

    node = await fleet.settle(starting)
    await fleet.later(31)
    await rounds(fleet, 3)
    await told.caught_up()
    reasons = [e["reason"] for e in told.of("node") if e["subject"] == node.id and e["status"] == "failed"]
    assert reasons == ["tunnel not up within 30 s"]


async def test_an_engine_that_leaves_and_comes_back_is_listed_and_subscribed_again(
    new_control: Callable[..., Any], told: Told
) -> None:
    control = new_control(tick=0.1)
    engine = control.world.engine
    await control.pool(2)
    stop = asyncio.Event()
    running = asyncio.create_task(control.reconciler.run(stop))
    try:
        await _until(lambda: len(_serving(told)) == 2)
        before = engine.running
        engine.leave()
        await _until(lambda: {event["subject"] for event in told.of("trouble")} == {"engine", "events"})
        assert "Docker does not answer" in [event["reason"] for event in told.of("trouble")]
        assert control.reconciler.leader
        await asyncio.sleep(0.3)
        assert {n.status for n in (await control.registry.nodes()).values()} == {NodeStatus.SERVING}
        engine.gone = False
        await _until(lambda: {event["subject"] for event in told.of("recovered")} == {"engine", "events"})
        await _until(lambda: len(engine.watchers) == 1)
        assert engine.running == before
        assert engine.calls.count("create") == 2
        engine.kill(before[0])
        await _until(lambda: len(_serving(told)) == 3)
    finally:
        stop.set()
        await running


def _serving(told: Told) -> set[str]:
    return {event["subject"] for event in told.of("node") if event["status"] == "serving"}


async def _until(condition: Callable[[], bool], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_docker_that_hangs_costs_its_time_and_neither_a_node_nor_the_lead(
    new_control: Callable[..., Any], tmp_path: Path, told: Told
) -> None:
    control, other = new_control(tick=0.1, lease=2.0), new_control(lease=2.0)
    await control.pool(1)
    (node,) = await control.serving()
    path = tmp_path / "hanging.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen(16)
        docker = DockerEngine("test", f"unix://{path}", 1.0)
        control.reconciler._engine = docker
        stop = asyncio.Event()
        running = asyncio.create_task(control.reconciler.run(stop))
        try:
            assert "Docker" in await told.reason("trouble", within=15.0)
            deadline = time.monotonic() + 2.5  # longer than a lease, which is kept meanwhile
            while time.monotonic() < deadline:
                await other.reconciler.tick()
                assert not other.reconciler.leader
                await asyncio.sleep(0.05)
            assert (await control.registry.node(node.id)).status is NodeStatus.SERVING
        finally:
            stop.set()
            began = time.monotonic()
            await asyncio.wait_for(running, 20)
            await docker.close()
    assert time.monotonic() - began < 5
    assert control.world.engine.running == [node.id]


async def test_an_empty_redis_is_refilled_from_the_copy_and_says_so(
    redis_server: Any, new_control: Callable[..., Any]
) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    control = new_control(registry)
    try:
        await control.pool(1, rotate_hours=12)
        await registry.put_user(User(name="alice", password_hash="h"))
        (node,) = await control.serving()
        marked = node.model_copy(update={"retire": "asked for"})
        control.world.provider.trouble = "no servers"
        await registry.advance_node(marked, node.status)
        await control.reconciler.tick()
        await control.reconciler.settle()
        redis_server.stop()
        await control.reconciler.tick()
        redis_server.start()
        listening = Told(registry)
        await listening.caught_up()
        with structlog.testing.capture_logs() as logged:
            await control.settle(registry.epoch)
        restored = await listening.reason("restored")
        assert [one["reason"] for one in logged if one["event"] == "registry_refilled"] == [restored]
        assert restored == (
            "the registry was empty: filled from the last copy on disk and from what runs (1 nodes, 1 pools, 1 users)"
        )
        snapshot = await registry.snapshot()
        assert snapshot.nodes[node.id].retire == "asked for"
        assert snapshot.pools["jp"].rotate_hours == 12
        await listening.close()
    finally:
        await control.close()
        await registry.close()


async def test_a_copy_that_is_not_understood_is_put_aside_and_told(fleet: Any, told: Told, tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text('{"schema": 99}')
    await fleet.settle(fleet.registry.epoch)
    assert "is not understood and was put aside as" in await told.reason("restored")
    assert (tmp_path / "fleet.json.unread").exists()


async def test_a_full_disk_stops_nothing_and_says_so(fleet: Any, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    await fleet.pool(1)
    await fleet.serving()
    with monkeypatch.context() as patch:
        patch.setattr("control.providers.files.os.fsync", full)
        await fleet.pool(2)
        await fleet.serving(count=2)
        assert await told.reason("trouble") == (
            "the copy of the fleet is not saved, an older one stands: No space left on device"
        )
        assert len(told.of("trouble")) == 1
    await rounds(fleet, 1)
    await told.caught_up()
    assert [event["subject"] for event in told.of("recovered")] == ["copy"]
    assert len((await fleet.reconciler._keeper.load())[0].nodes) == 2


async def test_a_full_disk_costs_the_log_of_an_exit_not_its_slot(
    fleet: Any, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    await fleet.pool(1)
    (node,) = await fleet.serving()
    monkeypatch.setattr(fleet.files, "save_log", full)
    fleet.world.engine.kill(node.id)

    async def removed() -> bool:
        return fleet.world.engine.of(node.id) is None

    await fleet.settle(removed)
    await _until(lambda: any(event["subject"] == "logs" for event in told.of("trouble")))
    assert "No space left" in next(e["reason"] for e in told.of("trouble") if e["subject"] == "logs")


async def test_a_provider_in_trouble_is_told_once_and_so_is_its_end(fleet: Any, told: Told) -> None:
    fleet.world.provider.trouble = "every account rests: AUTH_FAILED"
    await fleet.pool(1)
    await rounds(fleet, 5)
    await told.caught_up()
    assert [(e["subject"], e["reason"]) for e in told.of("trouble")] == [("jp", "every account rests: AUTH_FAILED")]
    fleet.world.provider.trouble = ""
    await fleet.serving()
    await told.caught_up()
    assert [e["subject"] for e in told.of("recovered")] == ["jp"]


async def test_an_orphan_is_removed_and_told_and_a_foreign_name_left_alone(fleet: Any, told: Told) -> None:
    await fleet.registry.begin_epoch()
    engine = fleet.world.engine
    engine.foreign_names.add("vpnexit-jp0000ab")
    body = {"Labels": {LABEL + "node": "jp0000aa", LABEL + "country": "jp", LABEL + "slot": "jp-0"}}
    await engine.start(await engine.create("vpnexit-jp0000aa", body, "m1"))
    await rounds(fleet, 2)
    assert not engine.found
    assert await told.reason("orphan") == "a container that no record knows was removed"


async def test_a_claim_without_a_record_is_taken_over(fleet: Any) -> None:
    ghost = Node(id="jp00000a", country="jp", kind=NodeKind.VPN, machine="m1", status=NodeStatus.REQUESTED)
    assert await fleet.registry.claim_slot("jp-0", ghost, "")
    await fleet.registry.delete_node(ghost.id)
    await fleet.pool(1)
    (node,) = await fleet.serving()
    assert node.slot == "jp-0"

"""Controls of two machines on one Redis: the fleet stays where it is, and who cannot reach it says so."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from control.fleet import UnavailableError
from control.leadership import ROLE
from control.model import slot_name
from control.providers import Choice
from deploy import ports
from health.config import RedisSettings
from health.model import NodeStatus
from health.registry import Registry
from tests.control.conftest import Control, World


@pytest.fixture
def second(new_control: Callable[..., Control], redis_url: str, tmp_path: Path) -> Control:
    """The control of another machine, m2."""
    return new_control(state_dir=tmp_path / "m2", within=World("m2"), machine="m2")


async def rounds(control: Control, count: int = 5, seconds: float = 2.0) -> None:
    for _ in range(count):
        await control.later(seconds)


async def claims(control: Control) -> dict[str, str]:
    return await control.registry.claims([slot_name("jp", index) for index in range(6)])


async def test_a_control_of_another_machine_takes_nothing_over(
    fleet: Control, second: Control, new_control: Callable[..., Control]
) -> None:
    await fleet.pool(2)
    nodes, slots = await fleet.serving(count=2), await claims(fleet)
    await fleet.close()
    with structlog.testing.capture_logs() as logged:
        await rounds(second, 40)  # far past the lease, every deadline and time-out
    assert await fleet.registry.leader(ROLE) == ""
    assert not second.reconciler.leader
    assert second.world.engine.calls.count("create") == 0
    assert await fleet.registry.nodes() == {node.id: node for node in nodes}
    assert await claims(fleet) == slots
    assert "the fleet runs on machine m1, which this control (of m2) does not reach" in second.reconciler.standby
    told = [one for one in logged if one["event"] == "trouble"]
    assert [(one["part"], one["reason"]) for one in told] == [("machine", second.reconciler.standby)]
    again = new_control()
    assert [node.id for node in await again.serving(count=2)] == [node.id for node in nodes]
    again.world.engine.kill(nodes[0].id)
    await again.serving(count=2)
    assert again.world.engine.calls.count("create") == 3


async def test_beside_a_living_leader_it_stands_by_and_starts_nothing(fleet: Control, second: Control) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    await rounds(second, 3)
    assert "m1" in second.reconciler.standby
    for asked in (second.fleet.start("jp"), second.fleet.start("us"), second.fleet.restart(node.id)):
        with pytest.raises(UnavailableError, match="the fleet runs on machine m1"):
            await asked
    assert list(await fleet.registry.nodes()) == [node.id]
    # A wish may be told to any control: who leads makes it true.
    await second.fleet.scale("jp", 2)
    assert {one.machine for one in await fleet.serving(count=2)} == {"m1"}


async def test_an_emptied_fleet_may_begin_anew_on_another_machine(fleet: Control, second: Control) -> None:
    await fleet.pool(1)
    await fleet.serving()
    await rounds(second, 3)
    await fleet.pool(0)
    fleet.world.ahead += 60

    async def ended() -> bool:
        return all(node.status.ended for node in (await fleet.registry.nodes()).values())

    fleet.world.ahead += 60
    for _ in range(3):
        await rounds(fleet, 2, 31)
    await fleet.settle(ended)
    await fleet.close()
    await rounds(second, 3)
    assert second.reconciler.standby == ""
    assert second.reconciler.leader
    await second.pool(1)
    assert [node.machine for node in await second.serving()] == ["m2"]


async def test_a_machine_under_a_new_name_goes_on_with_its_nodes(
    fleet: Control, new_control: Callable[..., Control]
) -> None:
    await fleet.pool(2)
    before = await fleet.serving(count=2)
    await fleet.close()
    fleet.world.engine._machine = "renamed"
    again = new_control(machine="renamed")
    await rounds(again, 5)
    assert again.reconciler.leader
    assert [node.id for node in await again.serving(count=2)] == [node.id for node in before]
    assert again.world.engine.calls.count("create") == 2
    again.world.engine.kill(before[0].id)
    assert {node.machine for node in await again.serving(count=2)} == {"m1", "renamed"}


async def test_an_empty_redis_is_left_to_the_machine_that_the_nodes_were_on(
    new_control: Callable[..., Control], redis_server: Any, tmp_path: Path
) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    fleet = new_control(registry)
    second = new_control(registry, tmp_path / "m2", World("m2"), machine="m2")
    await fleet.pool(2)
    before = await fleet.serving(count=2)
    await rounds(second, 3)
    await fleet.close()
    redis_server.stop()
    redis_server.start()
    await rounds(second, 10)
    assert await registry.epoch() == ""
    assert "m1" in second.reconciler.standby
    again = new_control(registry)
    assert [node.id for node in await again.serving(count=2)] == [node.id for node in before]
    assert again.world.engine.calls.count("create") == 2
    await registry.close()


async def test_where_both_have_nodes_who_leads_leaves_the_others_alone(
    fleet: Control, second: Control, tmp_path: Path
) -> None:
    await fleet.pool(2)
    nodes = await fleet.serving(count=2)
    await fleet.close()
    # As if it had been started on both at once.
    own = second.placement.node("jp-2", await second.fleet.scale("jp", 3), _choice(), nodes[0].protocol)
    assert await second.registry.claim_slot("jp-2", own, "")
    slots = await claims(second)
    await rounds(second, 10)
    assert second.reconciler.leader
    assert second.world.engine.running == [own.id]
    assert second.world.engine.calls.count("create") == 1
    found = await second.registry.nodes()
    assert {node.id: found[node.id] for node in nodes} == {node.id: node for node in nodes}
    assert await claims(second) == slots
    assert (await second.registry.troubles())["machine"].startswith("2 nodes on machine m1")
    # Not even where fewer are wished for, or more.
    await second.pool(1)
    await rounds(second, 5)
    assert second.world.engine.running == [own.id]
    await second.pool(4)
    await rounds(second, 5)
    assert len(second.world.engine.running) == 2
    assert await claims(second) | slots == await claims(second)
    assert {node.status for node in (await second.registry.nodes()).values()} == {NodeStatus.SERVING}


def _choice() -> Choice:
    return Choice("acct", "jp9.vpn.example", "Tokyo", "198.18.10.11", 51820, "udp")


CONTROL = """
import asyncio, sys
from pathlib import Path
from control.config import ControlSettings, NordVpnSettings
from control.main import run
from health.config import RedisSettings
listen, machine, url, state, docker = sys.argv[1:]
settings = ControlSettings(listen=listen, machine=machine, docker_host=docker, probe_name="probe.example", lease=0.5)
redis = RedisSettings(url=url, timeout=5.0)
asyncio.run(run(settings, NordVpnSettings(api_url="http://127.0.0.1:9"), redis, Path(state)))
"""


async def test_a_real_process_on_another_machine_leaves_the_fleet_where_it_is(
    fleet: Control, redis_url: str, tmp_path: Path
) -> None:
    """A whole control of another machine: it answers 503, asks its Docker for lists alone, and changes no record."""
    await fleet.pool(1)
    (node,) = await fleet.serving()
    await fleet.close()
    slots = await claims(fleet)
    docker, api = tmp_path / "docker.sock", f"127.0.0.1:{ports.free()}"
    runner = web.AppRunner(_empty_docker(asked := []), shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(docker)).start()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CONTROL, api, "m2", redis_url, str(tmp_path / "m2"), f"unix://{docker}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            told = await _standing_by(session, f"http://{api}/api/health/ready")
        assert (told["ready"], told["standby"], told["leader"]) == (False, True, False)
        await asyncio.sleep(3)  # six leases, three rounds
        assert await fleet.registry.leader(ROLE) == ""
        assert await fleet.registry.nodes() == {node.id: node}
        assert await claims(fleet) == slots
        assert {method for method, _ in asked} == {"GET"}
    finally:
        process.terminate()
        output, _ = await process.communicate()
        await runner.cleanup()
    troubles = [line for line in output.decode().splitlines() if "trouble" in line]
    assert len(troubles) == 1
    assert "the fleet runs on machine m1, which this control (of m2) does not reach: it stands by" in troubles[0]


def _empty_docker(asked: list[tuple[str, str]]) -> web.Application:
    """A Docker Engine that runs nothing."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append((request.method, request.path))
        if request.path.endswith("/version"):
            return web.json_response({"ApiVersion": "1.41", "MinAPIVersion": "1.12"})
        if request.path.endswith("/events"):
            await asyncio.Event().wait()
        return web.json_response([])

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


async def _standing_by(session: aiohttp.ClientSession, url: str, within: float = 60.0) -> dict[str, Any]:
    """What the API says of itself, once it answers and says that it stands by."""
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(url) as answer:
                told: dict[str, Any] = await answer.json()
                if told["standby"]:
                    assert answer.status == 503
                    return told
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)

"""Control as a process: ready, ended by a signal, and one clear line where it cannot start."""

import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from control.config import ControlSettings, CustomSettings, NordVpnAccount, NordVpnSettings
from control.main import StartError, _assemble, run
from deploy import ports
from health.config import RedisSettings
from health.model import Node, NodeKind, NodeStatus
from health.registry import Registry, Snapshot
from tests.control.conftest import FakeEngine, FakeProvider


def redis_at(url: str) -> RedisSettings:
    return RedisSettings(url=url, timeout=5.0)


def settings(port: int, **more: Any) -> ControlSettings:
    given = {"listen": f"127.0.0.1:{port}", "engine": "none", "direct_nodes": ["zz"], "tick": 0.05, **more}
    return ControlSettings.model_validate(given)


async def health(port: int) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/api/health") as answer:
                found: dict[str, Any] = await answer.json()
                if found["redis"] == "down" or (found["leader"] and found["redis"] == "ok"):
                    return found
        except OSError:
            pass
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_a_signal(redis_url: str, tmp_path: Path, number: signal.Signals) -> None:
    port = ports.free()
    running = asyncio.create_task(run(settings(port), NordVpnSettings(), redis_at(redis_url), tmp_path))
    assert (await health(port))["status"] == "ok"
    password = (tmp_path / "admin.password").read_text().strip()
    registry = Registry.open(redis_at(redis_url))
    try:
        assert await registry.epoch()
        assert not await registry.acquire("reconciler", "somebody", 1)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(running, 20)
        assert await registry.acquire("reconciler", "somebody", 1)
    finally:
        await registry.close()
    assert password


async def test_it_starts_without_redis_and_without_docker(tmp_path: Path) -> None:
    port = ports.free()
    nowhere = RedisSettings(url=f"unix://{tmp_path}/none.sock")
    chosen = settings(port, engine="docker", docker_host=f"unix://{tmp_path}/none.sock")
    running = asyncio.create_task(run(chosen, NordVpnSettings(), nowhere, tmp_path))
    assert (await health(port))["redis"] == "down"
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 20)


async def test_a_taken_port_is_one_clear_line(redis_url: str, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(StartError, match=rf"control\.listen 127\.0\.0\.1:{port}: .*in use"):
            await run(settings(port), NordVpnSettings(), redis_at(redis_url), tmp_path)


async def test_a_placeholder_token_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("changeme")
    (tmp_path / "token").chmod(0o600)
    nordvpn = NordVpnSettings(accounts=(NordVpnAccount(name="one", token_file=tmp_path / "token"),))
    with pytest.raises(StartError, match="holds no access token"):
        await run(settings(ports.free()), nordvpn, RedisSettings(), tmp_path)


async def test_a_numeric_insights_address_without_a_probe_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"control\.probe_name"):
        await run(settings(ports.free()), NordVpnSettings(api_url="http://198.19.10.90"), RedisSettings(), tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zzz", "control.provider: there is no provider 'zzz'; there are: lab, nordvpn"),
        ("custom", "there are: lab, nordvpn; `custom` comes with custom.directory in the configuration"),
    ],
)
async def test_a_provider_that_does_not_exist_is_refused_at_start(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(StartError) as refused:
        await run(settings(ports.free(), provider=name), NordVpnSettings(), RedisSettings(), tmp_path)
    assert str(refused.value).endswith(said)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_the_address_it_listens_on_is_logged_as_it_is_dialled(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    chosen = settings(0, listen=f"{host}:{ports.free(host.strip('[]'))}")
    running = asyncio.create_task(run(chosen, NordVpnSettings(), redis_at(redis_url), tmp_path))
    async with asyncio.timeout(30):
        told = ""
        while "listen=" not in told:
            told += capsys.readouterr().out
            await asyncio.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 20)
    assert f"listen={chosen.listen} " in told


async def test_an_upstream_without_its_password_is_shown_as_unusable_until_it_is_there(
    redis_url: str, tmp_path: Path
) -> None:
    upstream = {"country": "jp", "url": "socks5://me@127.0.0.1:1"}
    chosen, redis = (
        settings(ports.free(), direct_nodes=[], upstreams=[upstream]),
        redis_at(redis_url),
    )
    passwords = tmp_path / "passwords"
    running = asyncio.create_task(run(chosen, NordVpnSettings(), redis, tmp_path, upstream_passwords=passwords))
    registry = Registry.open(redis)

    async def becomes(status: NodeStatus) -> Node:
        async with asyncio.timeout(30):
            while True:
                for node in (await registry.nodes()).values():
                    if node.status is status:
                        return node
                await asyncio.sleep(0.02)

    try:
        unusable = await becomes(NodeStatus.FAILED)
        assert f"{passwords}/me@127.0.0.1:1; put it there" in unusable.reason
        passwords.mkdir()
        (passwords / "me@127.0.0.1:1").write_text("secret\n")
        assert (await becomes(NodeStatus.SERVING)).id == unusable.id
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 20)
        await registry.close()


async def test_a_folder_of_vpn_files_that_is_not_there_is_refused_at_start(tmp_path: Path) -> None:
    folder = CustomSettings(directory=tmp_path / "none")
    with pytest.raises(StartError, match=r"custom\.directory .*none: No such file or directory"):
        await run(settings(ports.free()), NordVpnSettings(), RedisSettings(), tmp_path, folder)


async def test_a_folder_of_vpn_files_is_read_at_start_and_a_bad_file_costs_nobody_else_anything(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "jp-1.ovpn").write_text("up /bin/sh\n")
    port = ports.free()
    folder = CustomSettings(directory=tmp_path / "files")
    running = asyncio.create_task(
        run(
            settings(port, provider="custom"),
            NordVpnSettings(),
            redis_at(redis_url),
            tmp_path,
            folder,
        )
    )
    await health(port)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 20)
    assert "jp-1.ovpn line 1: up is not allowed" in capsys.readouterr().out


async def test_nodes_of_servers_with_another_address_are_told_to_the_plan(redis_url: str, tmp_path: Path) -> None:
    registry = Registry.open(redis_at(redis_url))
    provider, engine = FakeProvider(), FakeEngine()
    provider.elsewhere = {"jp1.vpn.example"}
    given = settings(0, engine="docker", direct_nodes=[])
    parts = _assemble(given, NordVpnSettings(), tmp_path, registry, {"nordvpn": provider}, engine)
    there = Node(
        id="jp000001",
        country="jp",
        kind=NodeKind.VPN,
        status=NodeStatus.SERVING,
        machine="m1",
        slot="jp-0",
        vpn_server="jp1.vpn.example",
    )
    try:
        assert parts.reconciler._observer is not None
        world = await parts.reconciler._observer.world(Snapshot("e", {there.id: there}), [], frozenset())
        assert world.moved == {there.id: "moved"}
    finally:
        await registry.close()

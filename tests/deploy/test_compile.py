"""The gateway is compiled, and a worker of the compiled copy does the job."""

import ast
import asyncio
import importlib.machinery
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import compile as subject
from gateway import compiled
from health.config import RedisSettings
from health.registry import Registry
from tests.conftest import RedisServer
from tests.gateway.harness import Gateway, curl, wait_for


@pytest.fixture(scope="module")
def copy() -> Path:
    return subject.make()


@pytest.fixture
def gateway(copy: Path, redis_server: RedisServer, tmp_path: Path) -> Iterator[Gateway]:
    asyncio.run(_empty_fleet(redis_server.url))
    gateway = Gateway(redis_server.url, tmp_path)
    yield gateway
    gateway.close()


async def _empty_fleet(url: str) -> None:
    registry = Registry.open(RedisSettings(url=url))
    await registry.begin_epoch()
    await registry.close()


@pytest.mark.timeout(300)  # where nobody has compiled before
def test_every_module_is_there(copy: Path) -> None:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    assert [name for name in subject.MODULES if not (copy / "gateway" / f"{name}{suffix}").exists()] == []
    assert compiled.find() == copy
    assert subject.make() == copy
    assert sorted(path.name for path in copy.parent.iterdir()) == sorted([copy.name, "lock"])


@pytest.mark.parametrize("module", subject.MODULES)
def test_nothing_that_waits_is_compiled(module: str) -> None:
    tree = ast.parse((compiled.ROOT / "gateway" / f"{module}.py").read_text())
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)] == []


def test_no_interpreted_class_inherits_from_a_compiled_one() -> None:
    """mypyc refuses that when the first object is made, which only the compiled product does."""
    wrong = []
    for file in (compiled.ROOT / "gateway").rglob("*.py"):
        name = file.relative_to(compiled.ROOT / "gateway").with_suffix("").as_posix()
        if name not in subject.MODULES:
            wrong += [f"{name}: {base}" for base in _compiled_bases(ast.parse(file.read_text()))]
    assert wrong == []


def _compiled_bases(tree: ast.Module) -> list[str]:
    compiled_here = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gateway.")
        if node.module.removeprefix("gateway.").replace(".", "/") in subject.MODULES
        for alias in node.names
    }
    bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
    return [base.id for base in bases if isinstance(base, ast.Name) and base.id in compiled_here]


def test_workers_run_it(gateway: Gateway) -> None:
    assert "__mypyc.cpython" in Path(f"/proc/{gateway.worker}/maps").read_text()
    answer = curl("-x", gateway.url, "http://vpnexit.internal/")
    assert answer.stdout.startswith("503 Service Unavailable\nno exit is serving")
    wait_for(lambda: '"compiled": true' in gateway.log.read_text(), what="the worker's word")


def test_what_cannot_be_compiled_is_told(tmp_path: Path) -> None:
    for package in ("gateway", "health"):
        shutil.copytree(compiled.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "gateway" / "relay.py").write_text("def broken(:\n")
    with pytest.raises(subject.CompileError, match=r"gateway/relay.py:1.*[Ss]yntax"):
        subject.make(tmp_path)
    assert compiled.find(tmp_path) is None
    assert [path.name for path in (tmp_path / compiled.HOLDER).iterdir()] == ["lock"]

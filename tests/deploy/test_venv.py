"""deploy/venv.sh: which Python it takes, when it does nothing. Nothing is downloaded here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "command", "dirname", "echo", "flock", "id", "rm", "sha256sum", "true")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the script needs of the project, and a directory of programs, `bin`."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "venv.sh", tmp_path / "deploy")
    for file in (*ROOT.glob("requirements*.lock"), ROOT / "pyproject.toml"):
        shutil.copy(file, tmp_path)
    (tmp_path / "bin").mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        if found:
            (tmp_path / "bin" / name).symlink_to(found)
    return tmp_path


def python(path: Path, version: str) -> None:
    """A stand-in that has `version` and nothing else."""
    new_enough = 0 if tuple(map(int, version.split(".")[:2])) >= (3, 11) else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'#!/bin/sh\ncase "$*" in\n  --version) echo Python {version} ;;\n'
        f"  *ensurepip*) exit 1 ;;\n  *version_info*) exit {new_enough} ;;\n  *) exit 1 ;;\nesac\n"
    )
    path.chmod(0o755)


def venv(tree: Path, mode: str = "run", **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [tree / "bin" / "bash", tree / "deploy" / "venv.sh", mode],
        env={"PATH": str(tree / "bin"), **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(("version", "shown"), [("3.10.12", "Python 3.10.12"), ("", "no python3")])
def test_old_or_no_python_is_one_clear_line(tree: Path, version: str, shown: str) -> None:
    if version:
        python(tree / "bin" / "python3", version)
    done = venv(tree)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(f"vpnexit: Python 3.11 or newer is needed, here is {shown}: install it (for example ")
    assert [line for line in lines if "installing into" not in line] == lines[-1:]
    assert not (tree / ".venv" / "bin").exists()


def test_a_newer_python_beside_an_old_one_is_found(tree: Path) -> None:
    python(tree / "bin" / "python3", "3.10.12")
    python(tree / "bin" / "python3.12", "3.12.1")
    assert "python3.12 has no venv module" in venv(tree).stderr


def test_python_can_be_named(tree: Path) -> None:
    python(tree / "bin" / "python3", "3.10.12")
    python(tree / "elsewhere" / "python", "3.13.0")
    done = venv(tree, PYTHON=str(tree / "elsewhere" / "python"))
    assert done.returncode == 2
    assert f"{tree}/elsewhere/python has no venv module: install it" in done.stderr


def test_nothing_is_done_where_the_stamp_fits(tree: Path) -> None:
    python(tree / ".venv" / "bin" / "python", "3.12.1")
    done = subprocess.run(
        ["bash", "-c", 'cat requirements*.lock pyproject.toml deploy/venv.sh | sha256sum; echo "$PWD"'],
        cwd=tree,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    (tree / ".venv" / ".dev").write_text(done.stdout)
    for mode in ("dev", "run"):
        done = venv(tree, mode)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with (tree / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert "installing into .venv" in venv(tree).stderr


def test_locks_agree_and_name_no_index() -> None:
    run, dev = (
        {line.split()[0] for line in (ROOT / name).read_text().splitlines() if line[:1].isalpha()}
        for name in ("requirements.lock", "requirements-dev.lock")
    )
    assert run < dev
    for lock in ROOT.glob("requirements*.lock"):
        text = lock.read_text()
        assert "://" not in text
        names = sum(line[:1].isalpha() for line in text.splitlines())
        assert names
        assert text.count("--hash=sha256:") >= names


def test_unknown_mode(tree: Path) -> None:
    assert "deploy/venv.sh run|dev" in venv(tree, "x").stderr

"""Which compiled copy is run: only one of this very source."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway import compiled

SOURCE = {"gateway/__init__.py": "", "gateway/part.py": "PACE = 'slow'\n", "health/__init__.py": ""}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, SOURCE)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_without_a_copy_there_is_none(root: Path) -> None:
    assert compiled.find(root) is None


@pytest.mark.parametrize(
    "change",
    [
        {"gateway/part.py": "PACE = 'slow' \n"},
        {"health/__init__.py": "\n"},
        {"gateway/wire/new.py": ""},
    ],
)
def test_a_copy_of_other_source_does_not_count(root: Path, change: dict[str, str]) -> None:
    compiled.place(root).mkdir(parents=True)
    assert compiled.find(root) == compiled.place(root)
    write(root, change)
    assert compiled.find(root) is None


def test_what_is_no_source_changes_nothing(root: Path) -> None:
    place = compiled.place(root)
    write(root, {"gateway/__pycache__/part.pyc": "x", "README.md": "x"})
    assert compiled.place(root) == place


def test_modules_come_from_the_copy(root: Path) -> None:
    write(root, {"gateway/compiled.py": Path(compiled.__file__).read_text()})
    ask = "from gateway import compiled; compiled.use(); from gateway import part; print(part.PACE, compiled.used())"

    def asked() -> str:
        done = subprocess.run([sys.executable, "-c", ask], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert asked() == "slow False"
    copy = compiled.place(root)
    write(copy, {"gateway/__init__.py": "", "gateway/part.py": "PACE = 'fast'\n"})
    assert asked() == "fast True"
    write(root, {"gateway/part.py": "PACE = 'edited'\n"})
    assert asked() == "edited False"

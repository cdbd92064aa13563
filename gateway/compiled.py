"""Which compiled copy of this package workers run: the one made of the very source that is on disk, if there is one.

`deploy.compile` makes it. A copy is named after its source and its Python, so that an old one is never run: whoever
edits a file gets the interpreter's pace until it is made anew.
"""

import hashlib
import sys
from pathlib import Path

import gateway

ROOT = Path(__file__).resolve().parent.parent
HOLDER = ".compiled"
# What is compiled takes constants and types of the floor for granted.
_PACKAGES = ("gateway", "health")


def place(root: Path = ROOT) -> Path:
    """Where the compiled copy of the source under `root` belongs, for the running Python."""
    digest = hashlib.sha256(str(sys.implementation.cache_tag).encode())
    for package in _PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"\0{file.relative_to(root)}\0".encode())
            digest.update(file.read_bytes())
    return root / HOLDER / digest.hexdigest()[:16]


def find(root: Path = ROOT) -> Path | None:
    """The compiled copy of the source under `root`, None where there is none."""
    try:
        found = place(root)
        return found if found.is_dir() else None
    except OSError:
        return None


def use() -> None:
    """Take the modules of this package from the compiled copy from here on, if there is one."""
    copy = find()
    if copy is not None:
        gateway.__path__.insert(0, str(copy / "gateway"))
        sys.path.append(str(copy))  # what all compiled modules share lies there


def used() -> bool:
    """Whether `use` found one."""
    return len(gateway.__path__) > 1

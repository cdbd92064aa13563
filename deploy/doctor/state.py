"""The state directory: can it be written, is there room, and are its secrets private?"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from control.passwords import ADMIN_FILE
from deploy.doctor.model import Finding, failed, ok, warning

LEAST_FREE = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """`free` is in bytes; `mode` is that of the admin's password, None where it is not generated yet."""

    directory: Path
    there: bool
    writable: bool
    free: int
    mode: int | None = None


def look(directory: Path) -> Seen:
    """`directory`, or where it is not there yet, what it would be made in."""
    there = directory.is_dir()
    base = next(parent for parent in (directory, *directory.parents) if parent.exists())
    found = os.statvfs(base)
    try:
        mode = stat.S_IMODE((directory / ADMIN_FILE).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    writable = base.is_dir() and os.access(base, os.W_OK | os.X_OK)
    return Seen(directory, there, writable, found.f_bavail * found.f_frsize, mode)


def judge(seen: Seen) -> Iterator[Finding]:
    name = "state directory"
    if not seen.writable:
        yield failed(
            name,
            f"{seen.directory} cannot be {'written' if seen.there else 'made'}",
            "Control does not start: it keeps the admin's password and a copy of the fleet there.",
            f"chown $USER {seen.directory}, or set VPNEXIT_STATE_DIR to another",
        )
    elif seen.free < LEAST_FREE:
        yield failed(
            name,
            f"{seen.free // 1024 // 1024} MiB free at {seen.directory}",
            "When the disk is full, changes are not kept over a restart of Redis, and logs are lost.",
            f"make room there: `df -h {seen.directory}`",
        )
    elif seen.mode is not None and seen.mode & 0o077:
        yield failed(
            name,
            f"{seen.directory / ADMIN_FILE} may be read by others (mode {seen.mode:04o})",
            "Whoever has an account on this machine runs the fleet.",
            f"chmod 600 {seen.directory / ADMIN_FILE}",
        )
    elif not seen.there:
        yield warning(
            name, f"{seen.directory} is not there yet", "The first start of control makes it.", "vpnexit control"
        )
    else:
        yield ok(name, str(seen.directory))

"""Passwords: argon2id hashes for proxy users, and the generated one of the API's `admin`."""

import asyncio
import os
import secrets
import threading
from pathlib import Path

from argon2 import PasswordHasher

ADMIN_FILE = "admin.password"
PLACEHOLDERS = frozenset({"changeme", "change-me", "password", "admin", "secret", "placeholder"})
# 19 MiB, two passes, one lane: the library's defaults cost 160 ms and 64 MiB a guess.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
_ONE_AT_A_TIME = threading.Lock()


class PasswordError(Exception):
    """A password file that cannot be used."""


async def hash_password(password: str) -> str:
    """The argon2id hash (19 MiB, t=2, p=1), off the event loop, one at a time."""
    return await asyncio.to_thread(_hash, password)


def admin_password(state_dir: Path) -> str:
    """The password of API user `admin`; the first call generates it into `admin.password` (mode 0600).

    Raises:
        PasswordError: the file is empty, holds a placeholder, or cannot be read or written.
    """
    path = state_dir / ADMIN_FILE
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path)
        password = path.read_text().strip()
    except OSError as error:
        raise PasswordError(f"{path}: {error.strerror}") from None
    if not password or password.lower() in PLACEHOLDERS:
        raise PasswordError(f"{path}: empty or a placeholder; remove the file to have a password generated")
    return password


def _hash(password: str) -> str:
    with _ONE_AT_A_TIME:
        return _HASHER.hash(password)


def _create(path: Path) -> None:
    # Written aside and linked, so that nobody ever reads half a password and two that start at once agree.
    if path.exists():
        return
    making = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as out:
            out.write(secrets.token_urlsafe(24) + "\n")
        os.link(making, path)
    except FileExistsError:
        return
    finally:
        making.unlink(missing_ok=True)

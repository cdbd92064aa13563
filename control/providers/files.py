"""Reading and writing files that hold secrets: bounded, private, errors in plain words. Everything blocks."""

import os
import stat
from pathlib import Path
from secrets import token_hex

from control.providers import ProviderError

MAX_BYTES = 256 * 1024


def read_bounded(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file that not everybody may change.

    Raises ProviderError: not there, not readable, no file, open to everybody, or longer than `limit`.
    """
    return _read(path, limit, private=False)


def read_private(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The same of a file that holds a secret: one that everybody on this machine may read or change is refused."""
    return _read(path, limit, private=True)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, whole or not at all. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    making = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        making.rename(path)
    finally:
        making.unlink(missing_ok=True)


def _read(path: Path, limit: int, *, private: bool) -> bytes:
    try:
        # A pipe would be waited for until somebody writes into it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ProviderError(f"{path} is not a file")
            if found.st_mode & stat.S_IWOTH and not private:
                raise ProviderError(f"everybody may change {path}: chmod o-w {path}")
            if private and found.st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise ProviderError(f"{path} holds a secret, and everybody may read or change it: chmod 600 {path}")
            content = stream.read(limit + 1)
    except IsADirectoryError:
        raise ProviderError(f"{path} is not a file") from None
    except (OSError, ValueError) as error:
        raise ProviderError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > limit:
        raise ProviderError(f"{path} is longer than {limit} bytes")
    return content

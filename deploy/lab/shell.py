"""Run a program and say in one line what went wrong."""

import os
import shutil
import subprocess
from collections.abc import Sequence


class LabError(Exception):
    """The lab cannot go on; the text is one line that says what to do, or what failed."""


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    timeout: float = 60.0,
    stdin: str | bytes | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """The standard output of `command`. `env` is added to the environment.

    Raises:
        LabError: not installed, a non-zero exit code, or longer than `timeout` seconds.
    """
    shown = " ".join(str(part) for part in command[:3])
    try:
        done = subprocess.run(
            command,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
            check=False,
        )
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{shown} did not end within {timeout:g} s") from None
    if done.returncode:
        raise LabError(f"{shown} failed ({done.returncode}): {last_line(done.stderr or done.stdout)}")
    return done.stdout.decode(errors="replace")


def succeeds(command: Sequence[str | os.PathLike[str]], *, timeout: float = 10.0) -> bool:
    """Whether `command` is there and ends with 0 in time."""
    try:
        run(command, timeout=timeout)
    except LabError:
        return False
    return True


def has(program: str) -> bool:
    """Whether `program` is on the path, /usr/sbin included (which a plain user's path may lack)."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


def last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"

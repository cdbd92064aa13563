"""Starting programs under another user, in groups of none but its own, without a capability."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def spawn(
    arguments: Sequence[str],
    *,
    user: int,
    group: int,
    output: int,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    descriptors: Sequence[int] = (),
    before: Callable[[], None] | None = None,
) -> int:
    """Start a program and return its process id; PID 1 reaps it. What it writes goes to the descriptor `output`.

    `before` runs in the child, already under its user. Raises OSError, subprocess.SubprocessError.
    """
    started = subprocess.Popen(
        list(arguments),
        env={"PATH": os.environ.get("PATH", os.defpath), **(environment or {})},
        stdin=stdin,
        stdout=output,
        stderr=output,
        pass_fds=descriptors,
        user=user,
        group=group,
        extra_groups=[],
        preexec_fn=before,  # noqa: PLW1509  (PID 1 has one thread)
    )
    started.returncode = 0
    return started.pid


def read_as(path: Path, user: int) -> str | None:
    """The text of a file that only `user` may read: even root without CAP_DAC_OVERRIDE is kept out. None if it
    cannot be read."""
    done = subprocess.run(
        ["cat", str(path)], capture_output=True, timeout=5, check=False, user=user, group=user, extra_groups=[]
    )
    return None if done.returncode else done.stdout.decode("utf-8", "replace")

"""The container's log: one JSON object a line, and what the two programs write. No secret ever gets here.

Everything goes through PID 1, without waiting: while the Docker daemon is away nobody reads the log, and a program
that waits to write it is a tunnel that stands still. What does not fit is lost.
"""

import json
import os
import time
from typing import Any

_ERROR = 2


def write(event: str, *, level: str = "info", **fields: Any) -> None:
    """Write one line to standard error: ts (Unix seconds), level, event and `fields`."""
    line = json.dumps({"ts": round(time.time(), 3), "level": level, "event": event, **fields}, default=str)
    _put(line.encode() + b"\n")


class Output:
    """A pipe for the output of programs; `writer` is theirs."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)

    def forward(self) -> None:
        """Pass on what has been written, as it is."""
        try:
            _put(os.read(self.reader, 65536))
        except BlockingIOError:
            pass


def never_wait() -> None:
    """Make writing to standard error fail instead of wait."""
    os.set_blocking(_ERROR, False)


def _put(data: bytes) -> None:
    try:
        os.write(_ERROR, data)
    except OSError:
        pass

"""The container's log: one JSON object a line, on standard error. No secret ever gets here."""

import json
import sys
import time
from typing import Any


def write(event: str, *, level: str = "info", **fields: Any) -> None:
    """Write one line: ts (Unix seconds), level, event and `fields`. A log that cannot be written stops nothing."""
    line = json.dumps({"ts": round(time.time(), 3), "level": level, "event": event, **fields}, default=str)
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:
        pass

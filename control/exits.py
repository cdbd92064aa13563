"""Why an exit container ended, from its exit status and the last line of its log. Pure."""

import json

from health.agent.protocol import Ended

MAX_REASON = 300
_KILLED = 128


def exit_reason(code: int | None, log: str) -> str:
    """One line of plain words, at most 300 characters."""
    said = _last_words(log)
    if said:
        return said[:MAX_REASON]
    if code is None:
        return "its container ended"
    if code > _KILLED:
        return f"its container was killed by signal {code - _KILLED}"
    known = {int(ended): ended.name.lower().replace("_", " ") for ended in Ended}
    name = f" ({known[code]})" if code in known else ""
    return f"its container ended with status {code}{name}"


def _last_words(log: str) -> str:
    """The reason of the container's closing line; empty where it ended without one."""
    for line in reversed(log.splitlines()):
        if not line.strip():
            continue
        try:
            last = json.loads(line)
        except ValueError:
            return ""
        if isinstance(last, dict) and last.get("event") == "ended" and isinstance(last.get("reason"), str):
            return "".join(c if c.isprintable() else " " for c in last["reason"])
        return ""
    return ""

"""Why an exit container ended, from its exit status and the last line of its log. Pure."""

import json
from typing import Any

from health.agent.protocol import Ended

MAX_REASON = 300
REMOVED = "its container was removed"
STOPPED = "its container was stopped from outside"
_KILLED = 128
_KILLED_BY = "its container was killed by signal"


def exit_reason(code: int | None, log: str) -> str:
    """One line of plain words, at most 300 characters. Not for a container that control itself stopped."""
    if code == Ended.STOPPED:
        return STOPPED
    said = _last_words(log)
    if said:
        return said[:MAX_REASON]
    if code is None:
        return "its container ended"
    if code > _KILLED:
        return f"{_KILLED_BY} {code - _KILLED}"
    known = {int(ended): ended.name.lower().replace("_", " ") for ended in Ended}
    name = f" ({known[code]})" if code in known else ""
    return f"its container ended with status {code}{name}"


def by_others(reason: str) -> bool:
    """True where somebody on the machine (an operator, its shutdown, want of memory) ended the container: a reason that
    speaks against no VPN server."""
    return reason in (REMOVED, STOPPED) or reason.startswith(_KILLED_BY)


def credentials_refused(code: int | None, log: str) -> bool:
    """True where the VPN server refused the account: wrong credentials, or too many sessions (OpenVPN tells both as
    AUTH_FAILED, doc/management-notes.txt). WireGuard tells neither."""
    return Ended.AUTH_FAILED in (code, _closing(log).get("code"))


def _last_words(log: str) -> str:
    """The reason of the container's closing line; empty where it ended without one."""
    reason = _closing(log).get("reason")
    return "".join(c if c.isprintable() else " " for c in reason) if isinstance(reason, str) else ""


def _closing(log: str) -> dict[str, Any]:
    """What the exit's first process says when it ends; empty where the last line is another."""
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
    try:
        found = json.loads(last)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("event") == "ended" else {}

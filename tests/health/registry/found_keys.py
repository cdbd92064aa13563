"""What stands in a Redis against what `health.registry` says of its keys."""

import re
from collections.abc import Callable
from typing import Any

import health.registry

_LINE = re.compile(
    r"^    (\S+(?:, \S+)*)(?:\n {24}| +)(for ever|channel|1\.25 ttl|\d+ (?:s|min|h|d|days))  ", re.MULTILINE
)
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "days": 86400}
LONGEST_SESSION_S = 1.25 * 7 * 86400


def named() -> dict[str, float | None]:
    """The keys of the package's docstring, and how many seconds each stays at most; None: for ever."""
    lines = _LINE.findall(health.registry.__doc__ or "")
    return {key: _seconds(stays) for keys, stays in lines if stays != "channel" for key in keys.split(", ")}


def wrong_keys(ask: Callable[..., Any], keys: dict[str, float | None] | None = None) -> dict[str, str]:
    """Keys that are not named, or that stay longer (or shorter) than is said, and what is wrong with each."""
    known = [(_pattern(name), stays) for name, stays in (keys or named()).items()]
    found = {}
    for key in ask("KEYS", "*"):
        fitting = [stays for pattern, stays in known if pattern.fullmatch(key)]
        left = ask("PTTL", key)
        if not fitting:
            found[key] = "not named"
        elif left == -1 and None not in fitting:
            found[key] = "stays for ever"
        elif left >= 0 and all(stays is None or left > stays * 1000 for stays in fitting):
            found[key] = f"stays {left / 1000:.0f} s"
    return found


def _seconds(stays: str) -> float | None:
    if stays == "for ever":
        return None
    number, unit = stays.split()
    return LONGEST_SESSION_S if unit == "ttl" else float(number) * _SECONDS[unit]


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile("vx:1:" + re.sub(r"<\w+>", "[^:]*", name))

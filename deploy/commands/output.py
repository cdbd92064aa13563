"""How answers are shown: tables and records for people, JSON for programs. Knows nothing of the API.

What comes from outside (reasons, names, logs of VPN programs) is never markup, and never reaches a terminal's controls.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

_ENDLESS = 1_000_000
WIDE = 120  # columns of a terminal from which the less important ones are shown, too

STYLES = {
    "running": "green",
    "serving": "green",
    "healthy": "green",
    "ok": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "warning": "yellow",
    "degraded": "yellow",
    "error": "red",
    "failed": "red",
    "down": "red",
    "unhealthy": "red",
    "stopped": "dim",
    "skipped": "dim",
}


@dataclass(frozen=True, slots=True)
class Column:
    """`wide`: only where there is room. `folds`: may take several lines; others stay whole."""

    title: str
    wide: bool = False
    folds: bool = False
    justify: Literal["left", "right"] = "left"


def harmless(text: str, keep: str = "") -> str:
    """`text` without what a terminal would obey: control characters and half surrogates are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any) -> str:
    """A value of the API in words."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items() if part not in (None, ""))
    if isinstance(value, list | tuple):
        return ", ".join(shown(part) for part in value)
    return harmless(str(value))


def styled(word: str) -> Text:
    return Text(word, style=STYLES.get(word.split(" ")[0], ""))


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """One line a row. Into a pipe goes every column, whole."""
    console = Console(highlight=False)
    piped = not console.is_terminal
    kept = [index for index, column in enumerate(columns) if piped or console.width >= WIDE or not column.wide]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index in kept:
        column = columns[index]
        made.add_column(column.title, justify=column.justify, no_wrap=not column.folds, overflow="fold")
    full = [[styled(harmless(row[index])) for index in kept] for row in rows]
    for cells in full:
        made.add_row(*cells)
    if full:
        _print(console, made)
    else:
        print("none")


def record(values: Mapping[str, Any]) -> None:
    """Everything about one thing: a name and its value each line, empty ones left out."""
    console = Console(highlight=False)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in _flat(values):
        made.add_row(Text(name), styled(shown(value)))
    _print(console, made)


def _print(console: Console, made: Table) -> None:
    """On a terminal as wide as that is. A pipe has no width: a program cuts what it gets, not we."""
    if console.is_terminal:
        return console.print(made)
    with console.capture() as captured:
        console.width = _ENDLESS
        console.print(made)
    return print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        title = f"{prefix}{harmless(str(name)).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{title}: ")
        elif value not in (None, "", []):
            yield title, value


def say(text: str) -> None:
    print(harmless(text))


def note(text: str) -> None:
    """Something for people beside the answer, which stays alone on standard output."""
    print(harmless(text), file=sys.stderr, flush=True)


def as_json(value: Any) -> None:
    """One document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def json_line(value: Any) -> None:
    """One document of a stream, on one line."""
    print(json.dumps(value, ensure_ascii=False, separators=(",", ":")), flush=True)

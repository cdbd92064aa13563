"""What the container uses: CPU and memory, from its control group (version 1 or 2), else from its processes.

All of it may be read by any user in the container. Files of version 1: Documentation/admin-guide/cgroup-v1 of the
kernel; of version 2: Documentation/admin-guide/cgroup-v2.rst.
"""

import os
from collections.abc import Iterable
from pathlib import Path

_SHORTEST = 0.9


class Usage:
    """Looks below `root` (`/`); what cannot be read is None."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._groups = root / "sys/fs/cgroup"
        self._processes = root / "proc"
        self._before: tuple[float, float] | None = None
        self._percent: float | None = None

    def cpu_percent(self, now: float) -> float | None:
        """The share of one core (100: all of it) since the call before, which is to be a second ago or longer.

        `now` is seconds of a steady clock. None at first.
        """
        if self._before is not None and now - self._before[0] < _SHORTEST:
            return self._percent
        used = self._cpu_seconds()
        if used is None:
            self._before = self._percent = None
            return None
        if self._before is not None:
            self._percent = round(max(100 * (used - self._before[1]) / (now - self._before[0]), 0.0), 2)
        self._before = (now, used)
        return self._percent

    def memory_bytes(self) -> int | None:
        """Without what the kernel would give back first, the files read and not used since: as Docker shows it."""
        two = self._groups
        used = _number(two / "memory.current")
        if used is not None:
            return used - min(_field(two / "memory.stat", "inactive_file") or 0, used)
        one = self._groups / "memory"
        used = _number(one / "memory.usage_in_bytes")
        if used is not None:
            return used - min(_field(one / "memory.stat", "total_inactive_file") or 0, used)
        pages = [_word(process / "statm", 1) for process in self._running()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") if pages else None

    def _cpu_seconds(self) -> float | None:
        micro = _field(self._groups / "cpu.stat", "usage_usec")
        if micro is not None:
            return micro / 1e6
        nano = _number(self._groups / "cpuacct/cpuacct.usage")
        if nano is not None:
            return nano / 1e9
        ticks = [_ticks(process / "stat") for process in self._running()]
        return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None

    def _running(self) -> Iterable[Path]:
        try:
            return [entry for entry in self._processes.iterdir() if entry.name.isdigit()]
        except OSError:
            return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _field(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None


def _word(path: Path, index: int) -> int:
    words = _text(path).split()
    return int(words[index]) if len(words) > index and words[index].isdigit() else 0


def _ticks(path: Path) -> int:
    # After the program's name, which may hold anything; user and system time are fields 14 and 15 of proc(5).
    words = _text(path).rpartition(")")[2].split()
    return sum(int(word) for word in words[11:13] if word.isdigit())

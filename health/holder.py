"""Names for holders of leases, by which others on the same machine can tell that one has died.

A lease outlives its holder by seconds, since a holder that is only slow must keep it. Whether a process is dead its
own machine knows at once: the name says which process of which PID namespace of which boot it is (proc(5)).
"""

import os
import secrets
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
# Fields of /proc/PID/stat after the program's name, which may hold anything.
_STATE, _START = 0, 19


def name() -> str:
    """A name for this process, new with every call."""
    return ".".join([_where(), str(os.getpid()), _fields(os.getpid())[_START], secrets.token_hex(8)])


def is_here(holder: str) -> bool:
    """Whether `holder` is, or was, a process that this one can see."""
    return holder.partition(".")[0] == _where()


def is_dead(holder: str) -> bool:
    """Whether `holder` is for certain no more; False for one that this process cannot see."""
    pid, _, rest = holder.partition(".")[2].partition(".")
    start = rest.partition(".")[0]
    if not is_here(holder) or not pid.isdigit() or len(pid) > 10:
        return False
    fields = _fields(int(pid))
    return not fields or fields[_START] != start or fields[_STATE] in "ZX"


@cache
def _where() -> str:
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}-{os.stat(_PROC / 'self/ns/pid').st_ino}"


def _fields(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []

"""Processes of a benchmark: started under a user of their own, measured as a whole tree, ended without fail.

Each gets a session of its own, so that what it forks ends with it, and the kernel ends it should the benchmark be
killed (prctl(2), PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

# Nobody's number on this machine. Each peer gets one of those above it, each further tree one of those below: what the
# kernel grants a user (pipes, above all) must not be used up by a neighbour.
PROXY_UID = 61100
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_CPU_SCHED = 2  # CPUCLOCK_SCHED, include/linux/posix-timers.h: nanoseconds of all threads, ended ones too
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The benchmark cannot go on; the text says why and what to do."""


class Child:
    """One started program and all it starts."""

    def __init__(
        self,
        command: Sequence[str | Path],
        directory: Path,
        *,
        user: int | None = PROXY_UID,
        environment: dict[str, str] | None = None,
        pipes: bool = False,
    ) -> None:
        self.command = [str(word) for word in command]
        self.log = directory / f"{Path(self.command[0]).name}-{time.monotonic_ns()}.log"
        who = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                self.command,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else log,
                stderr=log,
                cwd=directory,
                env={"PATH": os.environ["PATH"], "HOME": str(directory), **(environment or {})},
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509
                **who,
            )

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def output(self) -> IO[bytes]:
        stdout: IO[bytes] | None = self.process.stdout
        assert stdout is not None
        return stdout

    def tell(self, line: str) -> None:
        """Write one line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def check(self) -> None:
        """Raises BenchError, with the end of its log, when it has ended."""
        if self.process.poll() is not None:
            raise BenchError(f"{self.command[0]} ended: {self.log.read_text(errors='replace')[-1500:]}")

    def wait_for(self, ready: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until `ready`. Raises BenchError after `seconds`, or when the program ends."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{self.command[0]} not ready: {self.log.read_text(errors='replace')[-1500:]}")
            time.sleep(0.02)

    def close(self) -> None:
        """End it and what it started. Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def tree(roots: Sequence[int]) -> list[int]:
    """The process ids of `roots` and of everything below them."""
    below: dict[int, list[int]] = {}
    for pid, fields in _stats():
        below.setdefault(int(fields[1]), []).append(pid)
    found, waiting = [], list(roots)
    while waiting:
        found.append(waiting.pop())
        waiting += below.get(found[-1], [])
    return found


def leaf(roots: Sequence[int]) -> int:
    """The first process of the trees that started no other: of a supervisor with one worker, the worker."""
    return next(pid for pid in tree(roots) if len(tree([pid])) == 1)


def cpu_seconds(roots: Sequence[int]) -> float:
    """User and system time of the trees: nanoseconds for the living, clock ticks for children that ended."""
    seconds = 0.0
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            seconds += time.clock_gettime((~pid << 3) | _CPU_SCHED)
            fields = _fields(Path(f"/proc/{pid}/stat").read_text())
            seconds += (int(fields[13]) + int(fields[14])) / _TICKS
    return seconds


def memory_bytes(roots: Sequence[int]) -> int:
    """Proportional set size of the trees."""
    kib = 0
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib * 1024


def resident_bytes(pid: int) -> int:
    """Resident set size of one process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def descriptors(roots: Sequence[int]) -> int:
    """Open descriptors of the trees."""
    count = 0
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            count += len(os.listdir(f"/proc/{pid}/fd"))
    return count


def listens(port: int) -> bool:
    """Whether something accepts on 127.0.0.1:`port`."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _stats() -> Iterator[tuple[int, list[str]]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry), _fields(Path(f"/proc/{entry}/stat").read_text())


def _fields(stat: str) -> list[str]:
    # proc(5): the name, in brackets, may hold anything; what follows is field 3 and on.
    return stat.rpartition(")")[2].split()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

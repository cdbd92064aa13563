"""Child processes of one supervisor.

Started one by one, each waited for until it is ready; restarted with a growing delay when they end; stopped in reverse
order. None survives the supervisor, not even one that was killed with SIGKILL: the kernel tells each child when its
parent dies (prctl(2), PR_SET_PDEATHSIG). That signal does not reach grandchildren: a program that starts processes
itself ties them to itself the same way (`health.process.tie_to_parent`).

Knows nothing of what the programs are.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from deploy.probes import Probe
from health.process import Backoff, tie_to_parent

_POLL_S = 0.05
_PROBE_TIMEOUT_S = 2.0
_KILL_WITHIN_S = 5.0
_log = structlog.get_logger("processes")


class StartError(Exception):
    """A program could not be started, ended before it was ready, or was not ready in time."""

    def __init__(self, name: str, what: str, exit_code: int | None = None) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. Times are seconds.

    `env` is the whole environment (None: the supervisor's own). Output is appended to `log`, else it goes where the
    supervisor's goes. Without `ready` a program is ready once it runs. `restart` False leaves an ended program ended.
    """

    name: str
    argv: Sequence[str | os.PathLike[str]]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    log: Path | None = None
    ready: Probe | None = None
    ready_within: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within: float = 10.0
    restart: bool = True


class Supervisor:
    """Keeps programs running. Use from the main thread: a child is tied to the thread that started it.

    `async with Supervisor() as supervisor:` stops everything at the end of the block, however it ends.
    """

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._children: dict[str, _Child] = {}

    async def __aenter__(self) -> "Supervisor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_all()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the programs that run now, in the order they were started."""
        return {name: child.pid for name, child in self._children.items() if child.running}

    async def start(self, program: Program) -> int:
        """Start `program`, wait until it is ready, and keep it running from then on. Returns its process id.

        Raises:
            StartError: it could not be started, ended before it was ready, or took longer than `ready_within`.
        """
        if program.name in self._children:
            raise StartError(program.name, "is there already")
        child = self._children[program.name] = _Child(program, self._backoff)
        try:
            await child.start()
        except BaseException:
            await asyncio.shield(self.stop(program.name))
            raise
        return child.pid

    async def stop(self, name: str) -> None:
        """Stop one program: its stop signal, then SIGKILL for what is left of its process group after `stop_within`."""
        child = self._children.get(name)
        if child is not None:
            await child.stop()
            self._children.pop(name, None)

    async def stop_all(self) -> None:
        """Stop every program, the last started first."""
        for name in reversed(list(self._children)):
            await self.stop(name)

    def kill_all(self) -> None:
        """Send SIGKILL to every process group now: for a second Ctrl-C. `stop_all` must still follow, and is quick."""
        for child in self._children.values():
            child.kill()


class _Child:
    def __init__(self, program: Program, backoff: Backoff) -> None:
        self._program = program
        self._backoff = backoff
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._log_start = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        process = await self._spawn()
        if self._program.ready is not None:
            await self._wait_ready(process, self._program.ready)
        self._keeper = asyncio.create_task(self._keep(process), name=f"keep {self._program.name}")
        _log.debug("ready", program=self._program.name, pid=process.pid)

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self._program.stop_signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self._program.stop_within)
        if process.returncode is None:
            _log.warning("killed", program=self._program.name, after_s=self._program.stop_within)
        self.kill()
        await asyncio.wait_for(process.wait(), _KILL_WITHIN_S)

    def kill(self) -> None:
        # The group is still the child's own while any of its processes lives, and killing an empty one is an error.
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _spawn(self) -> asyncio.subprocess.Process:
        program = self._program
        parent = os.getpid()
        with _output(program.log) as output:
            self._log_start = output.tell() if output is not None else 0
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *program.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=program.env,
                    cwd=program.cwd,
                    start_new_session=True,
                    preexec_fn=lambda: tie_to_parent(parent),
                )
            except OSError as error:
                raise StartError(program.name, f"cannot start {program.argv[0]}: {error.strerror}") from error
        return self._process

    async def _wait_ready(self, process: asyncio.subprocess.Process, probe: Probe) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._program.ready_within
        ended = asyncio.create_task(process.wait(), name=f"wait {self._program.name}")
        try:
            while not await _probe(probe):
                if ended.done():
                    raise self._start_error(f"ended at once, exit code {ended.result()}", ended.result())
                if loop.time() > deadline:
                    raise self._start_error(f"not ready within {self._program.ready_within:g} s", None)
                await asyncio.wait({ended}, timeout=_POLL_S)
        finally:
            ended.cancel()

    def _start_error(self, what: str, exit_code: int | None) -> StartError:
        last = _last_line(self._program.log, self._log_start)
        return StartError(self._program.name, f"{what}: {last}" if last else what, exit_code)

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        delay, started = 0.0, loop.time()
        while True:
            code = await process.wait()
            self.kill()
            if not self._program.restart:
                _log.warning("ended", program=self._program.name, exit_code=code)
                return
            delay = self._backoff.next(delay, loop.time() - started)
            _log.warning("ended", program=self._program.name, exit_code=code, restart_in_s=delay)
            while True:
                await asyncio.sleep(delay)
                started = loop.time()
                try:
                    process = await self._spawn()
                    break
                except StartError as error:
                    delay = self._backoff.next(delay, 0.0)
                    _log.error("not started", program=self._program.name, why=str(error), restart_in_s=delay)


async def _probe(probe: Probe) -> bool:
    try:
        return await asyncio.wait_for(probe(), _PROBE_TIMEOUT_S)
    except (OSError, TimeoutError):
        return False


@contextlib.contextmanager
def _output(log: Path | None) -> Iterator[BinaryIO | None]:
    if log is None:
        yield None
        return
    with log.open("ab") as file:
        yield file


def _last_line(log: Path | None, start: int) -> str:
    """The last line that is not empty, of what was written from `start` on."""
    if log is None:
        return ""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")

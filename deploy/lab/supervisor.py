"""The process that keeps the lab's product running after `lab up`: `python -m deploy.lab.supervisor DIRECTORY`.

On its Unix socket it takes one JSON object a line and answers each with one:

    {"op": "status"}                      {"ready": true, "pids": {"redis": 4711, …}}
    {"op": "stop", "program": "redis"}    the same, once it has ended; it stays ended
    {"op": "start", "program": "redis"}   the same, once it is ready
    anything that fails                   {"error": "…"}
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.lab import product
from deploy.lab.shell import LabError
from deploy.lab.state import Place
from deploy.processes import Program, StartError, Supervisor
from health import logs
from health.process import stop_signals

ASK_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 90.0
_MODULE = "deploy.lab.supervisor"


async def run(place: Place) -> None:
    """Start everything and keep it running until SIGTERM or SIGINT.

    Raises:
        LabError, or a group of StartErrors: something did not come up; what was started is stopped again.
    """
    memory = place.recall()
    if memory is None:
        raise LabError("the lab is not up: run make lab")
    known = {program.name: program for program in product.programs(place, memory)}
    with stop_signals() as stop:
        async with Supervisor() as supervisor:
            service = _Service(supervisor, known)
            place.supervisor_socket.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(service.serve, place.supervisor_socket)
            place.supervisor_socket.chmod(0o600)
            starting = asyncio.create_task(service.start_all(), name="start")
            stopping = asyncio.create_task(stop.wait(), name="stop")
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            try:
                if starting.done():
                    starting.result()
                    await stopping
            finally:
                starting.cancel()
                stopping.cancel()
                server.close()
                place.supervisor_socket.unlink(missing_ok=True)


class _Service:
    def __init__(self, supervisor: Supervisor, known: Mapping[str, Program]) -> None:
        self._supervisor = supervisor
        self._known = known
        self._ready = False
        self._lock = asyncio.Lock()

    async def start_all(self) -> None:
        async with self._lock:
            # Redis first, since everybody asks it; the rest side by side.
            first, *rest = self._known.values()
            await self._supervisor.start(first)
            async with asyncio.TaskGroup() as group:
                for program in rest:
                    group.create_task(self._supervisor.start(program), name=f"start {program.name}")
            self._ready = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            await self._do(str(request["op"]), str(request.get("program", "")))
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"error": f"not understood: {line[:100]!r}"}
        except (LabError, StartError) as error:
            return {"error": str(error)}
        return {"ready": self._ready, "pids": self._supervisor.pids}

    async def _do(self, op: str, name: str) -> None:
        if op == "status":
            return
        if name not in self._known:
            raise LabError(f"there is no program {name!r} (there are: {', '.join(self._known)})")
        async with self._lock:
            if op == "stop":
                await self._supervisor.stop(name)
            elif op == "start":
                if name not in self._supervisor.pids:
                    await self._supervisor.start(self._known[name])
            else:
                raise LabError(f"there is no operation {op!r}")


def launch(place: Place) -> None:
    """Start the supervisor, detached from this process and its terminal, and return when everything is ready.

    Raises:
        LabError: something did not come up; the text is its own.
    """
    log = place.output / "supervisor.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, place.root],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=product.REPOSITORY,
            start_new_session=True,
        )
    place.supervisor_pid.write_text(f"{process.pid}\n")
    while not _ready(place):
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise LabError(lines[-1] if lines else "the lab's supervisor ended at once")
        time.sleep(0.1)


def ask(place: Place, op: str, program: str = "") -> dict[str, Any]:
    """One question to the running supervisor. Raises LabError when it is not running, or refuses."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ASK_TIMEOUT_S)
        try:
            connection.connect(os.fspath(place.supervisor_socket))
            connection.sendall(json.dumps({"op": op, "program": program}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer: dict[str, Any] = json.loads(stream.readline())
        except (OSError, ValueError):
            raise LabError("the lab is not running: run make lab") from None
    if "error" in answer:
        raise LabError(str(answer["error"]))
    return answer


def running(place: Place) -> bool:
    try:
        ask(place, "status")
    except LabError:
        return False
    return True


def stop(place: Place) -> None:
    """Stop the supervisor and with it everything it started."""
    pid = _pid(place)
    if pid:
        os.kill(pid, signal.SIGTERM)
        if not _wait_gone(place, STOP_TIMEOUT_S):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _wait_gone(place, STOP_TIMEOUT_S)


def _ready(place: Place) -> bool:
    try:
        return bool(ask(place, "status")["ready"])
    except LabError:
        return False


def _pid(place: Place) -> int:
    """The supervisor's process id, or 0; a number that another process has by now is not taken for it."""
    try:
        pid = int(place.supervisor_pid.read_text())
        command = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if _MODULE.encode() in command and os.fsencode(place.root) in command else 0


def _wait_gone(place: Place, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while pid := _pid(place):
        # Where this very process launched it, it stays a zombie until somebody waits for it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def main() -> None:
    logs.configure()
    try:
        asyncio.run(run(Place(Path(sys.argv[1]))))
    except* (LabError, StartError) as errors:
        sys.exit("; ".join(str(error) for error in errors.exceptions))


if __name__ == "__main__":
    main()

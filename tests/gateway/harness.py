"""A real gateway process in front of exits that live in network namespaces of their own."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from deploy import ports
from gateway.supervisor import ANSWER_WITHIN_S
from health.model import Node, NodeStatus
from health.registry import Registry

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MACHINE = "testbench"
NAMES = {
    "origin.test": ["127.0.0.1"],
    "mixed.test": ["127.0.0.1", "10.9.9.9"],
    "private.test": ["10.9.9.9"],
    "rebind.test": ["127.0.0.1", "10.9.9.9"],  # one at a time, in turn
    "slow.test": ["127.0.0.1"],  # after a second
    "two.test": ["127.0.0.3", "127.0.0.1"],
}


def wait_for(condition: Callable[[], object], seconds: float = 30, what: str = "condition") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


class Exit:
    """One stand-in exit: an agent and an origin in a namespace of their own."""

    def __init__(self, node_id: str, directory: Path) -> None:
        self.id = node_id
        self.socket = directory / f"{node_id}.sock"
        inner = f'ip link set lo up && exec {sys.executable} {HERE / "exit_stand_in.py"} "$@"'
        self.process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", inner, "exit", node_id, str(self.socket), json.dumps(NAMES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self._origin = int(json.loads(line)["origin"]) if line else 0
        if not line:
            self.close()
            raise AssertionError("the stand-in exit did not start")

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """What a killed container looks like: agent gone, sockets orphaned."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        if self._origin:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._origin, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Gateway:
    """One real gateway: a supervisor and, unless `settings` say otherwise, one worker.

    `stderr` is where it logs instead of a file; `files` the most descriptors a process of it may have.
    """

    def __init__(
        self,
        redis_url: str,
        directory: Path,
        machine: str = MACHINE,
        *,
        stderr: int | None = None,
        files: int | None = None,
        **settings: object,
    ) -> None:
        self.port, self.metrics_port = ports.free(), ports.free()
        self.log = directory / f"gateway-{self.port}.log"
        self._plan = directory / f"gateway-{self.port}.json"
        self.redis_url = redis_url
        self._machine = machine
        self.metrics_settings: dict[str, str] = {}
        self._settings = {
            "listen": [f"127.0.0.1:{self.port}"],
            "metrics_listen": f"127.0.0.1:{self.metrics_port}",
            "workers": 1,
            "allow_targets": ["127.0.0.0/8"],
            "drain_timeout": 5,
        }
        self.configure(**settings)
        limit = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*limit, sys.executable, str(HERE / "run_gateway.py"), str(self._plan)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=log if stderr is None else stderr,
            )
        try:
            wait_for(self.ready, 60, what="gateway ready")
        except BaseException:
            self.close()
            raise

    def configure(self, **settings: object) -> None:
        """Change settings; they count when it is started or told to start anew (SIGHUP)."""
        self._settings |= settings
        told = {"redis": {"url": self.redis_url}, "machine": self._machine, "settings": self._settings}
        told["metrics"] = self.metrics_settings
        self._plan.write_text(json.dumps(told))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """Process ids of its workers, oldest first."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if parent == self.process.pid and b"gateway" in words:
                        found.append(int(entry.name))
        return sorted(found)

    @property
    def worker(self) -> int:
        """The process id of its one worker."""
        (pid,) = self.workers()
        return pid

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/ready", timeout=20) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    def metrics(self) -> str:
        """What it shows; asked again where a worker did not answer in time, whose last word may be a second old."""
        for _ in range(3):
            began = time.monotonic()
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=20) as answer:
                text = str(answer.read().decode())
            if time.monotonic() - began < ANSWER_WITHIN_S:
                break
        return text

    def usable(self) -> int:
        """How many nodes the worker that knows of the fewest can choose."""
        name = "vpnexit_gateway_usable_nodes "
        found = [line.split()[1] for line in self.metrics().splitlines() if line.startswith(name)]
        return int(float(found[0])) if found else 0

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.worker}/fd"))

    def resident_kib(self) -> int:
        status = Path(f"/proc/{self.worker}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    def lines(self) -> list[dict[str, object]]:
        """The connection log so far."""
        whole = self.log.read_text().rpartition("\n")[0]
        parsed = (json.loads(line) for line in whole.splitlines() if line.startswith("{"))
        return [line for line in parsed if line.get("event") == "connection"]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def curl(*arguments: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    """Real curl, silent, with a time-out."""
    return subprocess.run(["curl", "-sS", "-m", str(timeout), *arguments], capture_output=True, text=True, check=False)


async def serve(registry: Registry, *exits: Exit, generation: int = 1) -> None:
    """Record each exit as admitted."""
    for exit_ in exits:
        await registry.put_node(
            Node(
                id=exit_.id,
                country=exit_.id[:2],
                kind="vpn",
                machine=MACHINE,
                status=NodeStatus.SERVING,
                agent=str(exit_.socket),
                generation=generation,
                exit_ip="127.0.0.1",
            )
        )


async def chosen(gateway: Gateway, country: str, expected: int = 200, seconds: float = 20) -> str:
    """Ask for the origin's page until the status is `expected`; returns the body."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await asyncio.to_thread(
            curl,
            "-x",
            f"http://u-country-{country}:x@127.0.0.1:{gateway.port}",
            "-w",
            "\n%{http_code}",
            "http://origin.test/",
        )
        body, _, status = answer.stdout.rpartition("\n")
        if status == str(expected):
            return body.strip()
        assert time.monotonic() < deadline, f"{answer.stdout!r} {answer.stderr!r}, expected {expected}"
        await asyncio.sleep(0.05)

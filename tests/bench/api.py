"""The control API beside the smallest server aiohttp can be: GET /api/nodes with 250 nodes against `hello`.

Both run on the first core, one at a time; the load generator, Redis and what makes the fleet lively have the other.
The API has everything on that an operator has: log-in, request ids, header fields, metrics; samples and scores change
once a second, so that its list is made anew as often.
"""

import base64
import statistics
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy import redis_binary
from tests.bench.api_parts import NODES
from tests.bench.children import PROXY_UID, BenchError, Child, cpu_seconds, free_port, listens
from tests.bench.lanes import Bench
from tests.bench.results import Goal, Section, table

CLIENTS = 64
_P95_MS, _TIMES_HELLO = 100.0, 1 / 0.8
_GZIP = "Accept-Encoding: gzip"


@dataclass(slots=True)
class _Way:
    """One thing that is asked for; `servers` are addresses and the processes that answer there."""

    title: str
    servers: Sequence[tuple[str, Child]]
    path: str
    fields: Sequence[str] = ()
    status: int = 200
    values: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    shares: list[list[float]] = field(default_factory=list)

    def medians(self) -> list[float]:
        """Requests a second, CPU µs a request, p50 and p95 in ms, KB an answer."""
        return [statistics.median(column) for column in zip(*self.values, strict=True)]


def run(bench: Bench, tree: Path, *, seconds: float, times: int) -> Section:
    """`seconds` for each way and round, `times` rounds in turn."""
    instances = _Instances(bench, tree)
    ways = _ways(bench, instances)
    for _ in range(times):
        for way in ways:
            way.values.append(_once(bench, way, seconds))
    text = (
        f"{NODES} nodes, {CLIENTS} clients that keep their connections, {seconds:g} s a round, {times} rounds in turn, "
        "medians. One server process on the first core, load generator, Redis and a fleet whose samples and scores "
        "change every second on the other (with two instances: one on each core, beside the load). `hello` and the "
        "constants are bare aiohttp handlers on uvloop; the API checks a log-in and has everything on. Browsers and "
        f"most HTTP libraries ask for gzip. Two instances, each: {_each(ways[-1])} requests/s."
    )
    hello = ways[0].medians()
    rows = [
        [
            way.title,
            *(f"{value:.{digits}f}" for value, digits in zip(way.medians(), (0, 1, 1, 1, 1), strict=True)),
            f"{way.medians()[0] / hello[0]:.2f}",
        ]
        for way in ways
    ]
    head = ("asked", "requests/s", "CPU µs", "p50 ms", "p95 ms", "KB", "÷ hello")
    return Section("API", text, table(head, rows), _goals(ways))


def _each(way: _Way) -> str:
    return " + ".join(f"{statistics.median(rates):.0f}" for rates in zip(*way.shares, strict=True))


def _goals(ways: Sequence[_Way]) -> list[Goal]:
    by_title = {way.title: way.medians() for way in ways}
    hello = by_title[_HELLO]
    goals = []
    for title in (_PACKED, _PLAIN):
        rate, cpu, _, p95, _ = by_title[title]
        goals.append(Goal(f"bare hello ÷ {title}, requests/s", hello[0] / rate, _TIMES_HELLO))
        # The same by CPU time, which neighbours on the machine disturb less.
        goals.append(Goal(f"{title} ÷ bare hello, CPU per request", cpu / hello[1], _TIMES_HELLO))
        goals.append(Goal(f"{title}, {CLIENTS} clients, p95", p95, _P95_MS, "ms"))
    return goals


_HELLO = "bare aiohttp, hello"
_PACKED = "GET /api/nodes, gzip"
_PLAIN = "GET /api/nodes, plain"


def _ways(bench: Bench, instances: "_Instances") -> list[_Way]:
    plain, packed = instances.answer(), instances.answer(_GZIP)
    files = []
    for name, (body, _) in (("plain", plain), ("packed", packed)):
        files.append(bench.directory / name)
        files[-1].write_bytes(body)
    port = free_port()
    words = [bench.tools.python, "-P", "-m", "tests.bench.api_parts", "hello", str(port), *files]
    bare = instances.child(words, core=0)
    bare.wait_for(lambda: listens(port))
    hello = [(f"127.0.0.1:{port}", bare)]
    login = [instances.login]
    return [
        _Way(_HELLO, hello, "/"),
        _Way("bare aiohttp, a constant of the plain size", hello, "/plain"),
        _Way("bare aiohttp, a constant of the gzip size", hello, "/packed"),
        _Way(_PLAIN, instances.servers[:1], "/api/nodes", login),
        _Way(_PACKED, instances.servers[:1], "/api/nodes", [*login, _GZIP]),
        _Way(
            "GET /api/nodes, not changed (304)", instances.servers[:1], "/api/nodes", [*login, "If-None-Match: *"], 304
        ),
        _Way("GET /api/nodes, gzip, two instances", instances.servers, "/api/nodes", [*login, _GZIP]),
    ]


def _once(bench: Bench, way: _Way, seconds: float) -> tuple[float, float, float, float, float]:
    share = CLIENTS // len(way.servers)
    words = [word for text in way.fields for word in ("-header", text)]
    words += ["-path", way.path, "-clients", str(share), "-seconds", str(seconds), "-status", str(way.status)]
    roots = [child.pid for _, child in way.servers]
    before = cpu_seconds(roots)
    done = bench.tools.load.together("http", [["-address", address, *words] for address, _ in way.servers])
    spent = cpu_seconds(roots) - before
    failed = sum(one["failed"] for one in done)
    if failed:
        raise BenchError(f"{way.title}: {failed} failed: {done[0]['errors']}")
    count = sum(one["done"] for one in done)
    way.shares.append([one["done"] / one["seconds"] for one in done])
    rate = sum(way.shares[-1])
    p50, p95 = (max(one[name] for one in done) / 1000 for name in ("p50", "p95"))
    size = sum(one["bytes"] for one in done) / count / 1000
    bench.say(f"  {way.title:44} {rate:7.0f}/s {spent / count * 1e6:6.1f} µs p95 {p95:6.1f} ms {size:7.1f} KB")
    return rate, spent / count * 1e6, p50, p95, size


class _Instances:
    """Two API instances on one Redis, with a fleet that lives."""

    def __init__(self, bench: Bench, tree: Path) -> None:
        self._bench = bench
        self._tree = tree
        state = bench.directory / "api"
        state.mkdir(mode=0o777)
        state.chmod(0o777)
        redis = state / "redis.sock"
        url = f"unix://{redis}"
        self.child(
            [redis_binary.find(), "--port", "0", "--unixsocket", redis, "--save", "", "--dir", state], core=1
        ).wait_for(redis.exists)
        self.child([bench.tools.python, "-P", "-m", "tests.bench.api_parts", "fleet", url], core=1)
        self.servers = [self._instance(state, url, core) for core in (0, 1)]
        password = (state / "admin.password").read_text().strip()
        self.login = "Authorization: Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
        self._await_fleet()

    def child(self, command: Sequence[str | Path], core: int) -> Child:
        environment = {"PYTHONPATH": str(self._tree), "PYTHONDONTWRITEBYTECODE": "1"}
        words = ["taskset", "-c", str(core), *command]
        child = Child(words, self._bench.directory, user=PROXY_UID, environment=environment)
        self._bench.stack.callback(child.close)
        return child

    def answer(self, *fields: str) -> tuple[bytes, Any]:
        """The list as the first instance gives it."""
        told = dict(text.split(": ", 1) for text in (self.login, *fields))
        request = urllib.request.Request(f"http://{self.servers[0][0]}/api/nodes", headers=told)
        with urllib.request.urlopen(request, timeout=5) as found:
            return found.read(), found.headers

    def _instance(self, state: Path, url: str, core: int) -> tuple[str, Child]:
        address = f"127.0.0.1:{free_port()}"
        config = self._bench.directory / f"control-{core}.toml"
        config.write_text(
            f'machine = "bench{core}"\nstate_dir = "{state}"\nlog_level = "warning"\n[redis]\nurl = "{url}"\n'
            f'[control]\nlisten = "{address}"\nengine = "none"\ngateways = []\n'
        )
        words = [self._bench.tools.python, "-P", "-m", "deploy.cli", "control", "--config", config]
        child = self.child(words, core)
        child.wait_for(lambda: listens(int(address.rpartition(":")[2])))
        return address, child

    def _await_fleet(self) -> None:
        deadline = time.monotonic() + 10
        while int(self.answer()[1]["X-Total-Count"]) < NODES:
            if time.monotonic() > deadline:
                raise BenchError("the fleet did not come")
            time.sleep(0.05)

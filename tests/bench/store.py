"""Redis: how soon a change is in every gateway's snapshot, what the fleet uses, and what could be offered.

250 nodes whose samples and scores change once a second. The followers are processes that keep a snapshot as a gateway's
worker does, by the same code.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from redis import Redis

from deploy import redis_binary
from tests.bench.api_parts import NODES
from tests.bench.children import PROXY_UID, Child, cpu_seconds
from tests.bench.lanes import Bench
from tests.bench.results import Goal, Section, table
from tests.bench.store_parts import CHANGES_A_SECOND, PIPELINE

FOLLOWERS = (1, 4, 16)
PROPAGATED_MS = 200.0
OFFERED = 100_000
# Processor time that a Python with these imports needs, and a rest: starting is not to be measured.
START_S, SETTLE_S = 0.75, 2.0


def propagation(bench: Bench, tree: Path, *, seconds: float, followers: Sequence[int] = FOLLOWERS) -> Section:
    """`seconds` for each number of workers."""
    rows, worst = [], 0.0
    for count in followers:
        with _store(bench, tree) as store:
            store.start("tests.bench.store_parts", "write", store.url)
            told = store.followed(count, seconds)
        for kind, what in (("score", "score, told"), ("node", "node's record, read")):
            delays = sorted(delay * 1000 for one in told for delay in one["delays"][kind])
            worst = max(worst, delays[-1])
            share = statistics.mean(one["cpu"] for one in told)
            reads = statistics.mean(one["reads"] for one in told)
            shown = (statistics.median(delays), delays[int(len(delays) * 0.99)], delays[-1])
            cost = (f"{share:.2%}", f"{store.share:.2%}", f"{reads:.1f}") if kind == "score" else ("", "", "")
            rows.append([str(count), what, str(len(delays)), *(f"{value:.1f}" for value in shown), *cost])
            bench.say(f"  {count:3} workers, {what:20} p50 {shown[0]:6.1f} p99 {shown[1]:6.1f} max {shown[2]:6.1f} ms")
    text = (
        f"From the write to every worker's choice, {NODES} nodes; all scores change once a second, and "
        f"{CHANGES_A_SECOND} nodes' records a second; {seconds:g} s for each number of workers, all on this machine. "
        "CPU is the share of one core that following costs a worker, and Redis; a read is one of the whole snapshot."
    )
    head = ("workers", "change", "seen", "p50 ms", "p99 ms", "max ms", "CPU a worker", "CPU Redis", "reads/s")
    goal = Goal(f"a change in every worker's snapshot, {NODES} nodes, slowest", worst, PROPAGATED_MS, "ms")
    return Section("Propagation", text, table(head, rows), [goal])


def usage(bench: Bench, tree: Path, *, seconds: float, workers: int = 8) -> Section:
    """What the fleet uses, then what can be offered: `seconds` each."""
    rows = []
    with _store(bench, tree) as store:
        store.start("tests.bench.store_parts", "collect", store.url)
        store.start("deploy.cli", "scorer", VPNEXIT_REDIS__URL=store.url)
        store.followed(workers, seconds)
        used = store.commands
        total, share = sum(used.values()), store.share
    most_first = sorted(used.items(), key=lambda one: -one[1])
    listed = ", ".join(f"{name} {rate:.0f}" for name, rate in most_first if rate >= 1)
    bench.say(f"  used: {total:.0f} commands/s, {share:.1%} of a core: {listed}")
    rows.append([f"used: {NODES} nodes, collector, scorer, {workers} workers", f"{total:.0f}", "", f"{share:.1%}"])
    best = 0.0
    with _store(bench, tree) as store:
        for kind in ("set", "get"):
            for count in (1, 2):
                offers = ["tests.bench.store_parts", "offer", store.url, kind, str(seconds)]
                done = store.told([store.start(*offers, pipes=True) for _ in range(count)])
                rate = sum(one["done"] / one["seconds"] for one in done)
                cost = sum(one["cpu"] for one in done) / sum(one["done"] for one in done) * 1e6
                best = max(best, rate)
                rows.append([f"offered: {kind}, {count} client(s)", f"{rate:.0f}", f"{cost:.1f}", f"{store.share:.0%}"])
                bench.say(f"  offered: {kind} by {count}: {rate:.0f}/s, {cost:.1f} µs")
    text = (
        f"Commands a second by Redis's own count (INFO commandstats) while {NODES} nodes are collected, scored and "
        f"followed: {listed}. Besides, what clients with the product's own settings get done in pipelines of "
        f"{PIPELINE}, each client a process."
    )
    head = ("what", "commands/s", "client's CPU µs a command", "Redis, of a core")
    goals = [Goal(f"{OFFERED:,} commands/s ÷ offered in pipelines, at best", OFFERED / best, 1.0)]
    return Section("Redis", text, table(head, rows), goals)


class _Store:
    """A Redis of its own, and programs that use it."""

    def __init__(self, bench: Bench, tree: Path, stack: contextlib.ExitStack) -> None:
        self._bench, self._tree, self._stack = bench, tree, stack
        self._directory = bench.directory / f"store-{time.monotonic_ns()}"
        self._directory.mkdir(mode=0o777)
        self._directory.chmod(0o777)
        path = self._directory / "redis.sock"
        self.url = f"unix://{path}"
        words = [redis_binary.find(), "--port", "0", "--unixsocket", path, "--save", "", "--dir", self._directory]
        self._redis = self._child(words)
        self._redis.wait_for(path.exists)
        self.share = 0.0
        self.commands: Mapping[str, float] = {}

    def start(self, module: str, *words: str, pipes: bool = False, **environment: str) -> Child:
        return self._child([self._bench.tools.python, "-P", "-m", module, *words], pipes=pipes, **environment)

    def followed(self, count: int, seconds: float) -> list[dict[str, Any]]:
        """What `count` workers tell who follow for `seconds`."""
        with Redis.from_url(self.url, decode_responses=True) as ours:
            while ours.scard("vx:1:nodes") < NODES or not ours.exists("vx:1:epoch"):
                self._redis.check()
                time.sleep(0.05)
        begin = time.monotonic() + count * START_S + SETTLE_S
        follow = ["tests.bench.store_parts", "follow", self.url, str(seconds), str(begin)]
        return self.told([self.start(*follow, pipes=True) for _ in range(count)])

    def told(self, children: Sequence[Child]) -> list[dict[str, Any]]:
        """What each says at its end; meanwhile it is counted what Redis does."""
        with Redis.from_url(self.url, decode_responses=True) as ours:
            ours.config_resetstat()
            started, cpu = time.monotonic(), cpu_seconds([self._redis.pid])
            lines = [child.output.readline() for child in children]
            took = time.monotonic() - started
            self.share = (cpu_seconds([self._redis.pid]) - cpu) / took
            stats = ours.info("commandstats")
        for child, line in zip(children, lines, strict=True):
            if not line:
                child.process.wait()
                child.check()
        self.commands = {name.removeprefix("cmdstat_"): one["calls"] / took for name, one in stats.items()}
        return [json.loads(line) for line in lines]

    def _child(self, words: Sequence[str | Path], *, pipes: bool = False, **environment: str) -> Child:
        settings = {"PYTHONPATH": str(self._tree), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        child = Child(words, self._directory, user=PROXY_UID, environment=settings, pipes=pipes)
        self._stack.callback(child.close)
        return child


@contextlib.contextmanager
def _store(bench: Bench, tree: Path) -> Iterator[_Store]:
    with contextlib.ExitStack() as stack:
        yield _Store(bench, tree, stack)

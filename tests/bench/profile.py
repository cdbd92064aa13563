"""Where a connection's CPU goes: system calls of each kind for every lane, Python functions for ours.

    python -m tests.bench calls [--peers microsocks]
    python -m tests.bench functions [--count 20000]

Needs strace; uses perf where it counts instructions. What is traced is not measured: tracing slows it down.
"""

import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence

from tests.bench import fetch
from tests.bench.children import BenchError, leaf, tree
from tests.bench.lanes import Bench, Lane
from tests.bench.results import Section, table

PEERS = ("microsocks", "haproxy")
_EVENTS = ("instructions:u", "instructions:k", "context-switches")
_STRACE_LINE = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)
_RARE = 0.02
_ATTACH_S, _SETTLE_S = 0.5, 0.2
_SAMPLES_A_SECOND = 500
_FUNCTIONS = 40
_IDLE = "_worker (concurrent/futures/thread.py"


def calls(bench: Bench, lanes: Sequence[Lane], *, count: int, clients: int) -> Section:
    """System calls per connection, by name and lane. Raises BenchError where strace is missing."""
    if not shutil.which("strace"):
        raise BenchError("strace is missing: install it, for example with `apt install strace`")
    found = {}
    for lane in lanes:
        _connections(bench, lane, 300, clients)
        found[lane.title] = system_calls(bench, lane, count, clients)
        more = counters(bench, lane, count, clients)
        bench.say(f"  {lane.title:32} {sum(found[lane.title].values()):6.1f} system calls  {more}")
    total: Counter[str] = Counter()
    for numbers in found.values():
        total.update(numbers)
    names = [name for name, _ in total.most_common() if any(numbers.get(name, 0) > _RARE for numbers in found.values())]
    rows = [[name, *(f"{numbers.get(name, 0):.2f}" for numbers in found.values())] for name in names]
    rows.append(["**all**", *(f"**{sum(numbers.values()):.1f}**" for numbers in found.values())])
    text = f"System calls per connection (connect, 64 bytes each way, close), {count} connections, {clients} at once."
    return Section("Where it goes", text, table(("", *found), rows))


def functions(bench: Bench, lane: Lane, *, count: int, clients: int) -> Section:
    """Which Python functions the worker of `lane` spends its time in, by py-spy."""
    samples = bench.directory / f"samples-{lane.speak}"
    worker = leaf(lane.roots[:1])
    command = [str(fetch.py_spy()), "record", "--rate", str(_SAMPLES_A_SECOND), "--format", "raw", "--output"]
    _while_attached(bench, [*command, str(samples), "--pid", str(worker)], lane, count, clients)
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for line in samples.read_text().splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        if frames[-1].startswith(_IDLE):
            continue
        own[frames[-1]] += int(number)
        inclusive.update(dict.fromkeys(frames, int(number)))
    everything = max(own.total(), 1)
    rows = [
        (frame.replace("|", "/"), f"{number / everything:.1%}", f"{inclusive[frame] / everything:.1%}")
        for frame, number in own.most_common(_FUNCTIONS)
    ]
    return Section(
        f"Functions: {lane.title}", f"{everything} samples.", table(("line", "itself", "with callees"), rows)
    )


def system_calls(bench: Bench, lane: Lane, count: int, clients: int) -> dict[str, float]:
    """System calls per connection by name."""
    summary = bench.directory / f"strace-{time.monotonic_ns()}"
    strace = ["strace", "-f", "-c", "-o", str(summary), *_pids(lane)]
    _while_attached(bench, strace, lane, count, clients)
    return {name: int(calls) / count for calls, name in _STRACE_LINE.findall(summary.read_text()) if name != "total"}


def counters(bench: Bench, lane: Lane, count: int, clients: int) -> str:
    """What perf counts per connection, as text; empty where it counts nothing."""
    if not shutil.which("perf"):
        return ""
    output = bench.directory / f"perf-{time.monotonic_ns()}"
    pids = ",".join(map(str, tree(lane.roots)))
    command = ["perf", "stat", "-x;", "-o", str(output), "-e", ",".join(_EVENTS), "-p", pids]
    _while_attached(bench, command, lane, count, clients)
    values = [line.split(";") for line in output.read_text().splitlines() if line.count(";") > 2]
    return ", ".join(f"{v[2]} {int(v[0]) / count:.1f}" for v in values if v[0].isdigit())


def _while_attached(bench: Bench, command: Sequence[str], lane: Lane, count: int, clients: int) -> None:
    watcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(_ATTACH_S)
        _connections(bench, lane, count, clients)
        time.sleep(_SETTLE_S)
    finally:
        watcher.send_signal(signal.SIGINT)
        watcher.wait(20)


def _connections(bench: Bench, lane: Lane, count: int, clients: int) -> None:
    done = bench.tools.load.run("connect", *lane.route, "-count", str(count), "-clients", str(clients))
    if done["failed"]:
        raise BenchError(f"{lane.title}: {done['failed']} of {count} failed: {done['errors']}")


def _pids(lane: Lane) -> list[str]:
    return [word for pid in tree(lane.roots) for word in ("-p", str(pid))]

"""CPU per gigabyte relayed, through one connection and through several."""

import statistics
from collections.abc import Sequence

from tests.bench.children import BenchError
from tests.bench.lanes import Bench, Lane, cpu_of, dearest_of_ours, rounds
from tests.bench.results import Goal, Section, spread, table

_HAPROXIES = ("haproxy", "haproxy-bufsize", "haproxy-splice", "haproxy-both")
PEERS = ("microsocks", "squid", "tinyproxy", "dante", "proxy.py", "pproxy", "glider", "gost", *_HAPROXIES)
CONNECTIONS = (1, 8)
_HALF = 0.5
_GB = 10**9


def run(bench: Bench, lanes: Sequence[Lane], *, size: int, times: int) -> Section:
    """Download `size` bytes through each lane in each of `times` rounds, for each number of connections."""
    found: dict[int, dict[str, list[float]]] = {}
    goals: list[Goal] = []
    for connections in CONNECTIONS:
        rounds(bench, lanes, times, lambda lane, c=connections: _once(bench, lane, size, c))  # type: ignore[misc]
        found[connections] = {lane.title: lane.values for lane in lanes if lane.values}
        goals += _goals(lanes, connections)
    text = (
        f"CPU s (user + system, all processes of the proxy) per 10^9 bytes downloaded, {size / _GB:g} GB a round "
        f"(slow peers less), {times} rounds in turn, medians. Pipes and buffers as the product's user may have them."
    )
    return Section("CPU per gigabyte", text, _table(lanes, found), goals)


def _once(bench: Bench, lane: Lane, size: int, connections: int) -> float:
    wanted = size // lane.weight // connections * connections
    words = [*lane.route, "-bytes", str(wanted), "-clients", str(connections)]
    seconds, done = cpu_of(lane, lambda: bench.tools.load.run("bulk", *words))
    if done["bytes"] != wanted:
        raise BenchError(f"{done['bytes']} of {wanted} bytes arrived")
    bench.say(
        f"  {lane.title:32} {seconds / wanted * _GB:6.3f} s/GB   {wanted / done['seconds'] / 1e6:6.0f} MB/s"
        f"   {connections} connections"
    )
    return seconds / wanted * _GB


def _goals(lanes: Sequence[Lane], connections: int) -> list[Goal]:
    """Against HAProxy as it comes, and against whichever way to set it up is the cheapest."""
    rivals = [lane for lane in lanes if lane.name in _HAPROXIES and lane.values]
    ours, goals = dearest_of_ours(lanes), []
    what = f"CPU per GB, {connections} connection(s), dearer of ours ÷"
    for lane in rivals:
        if lane.name == _HAPROXIES[0]:
            goals.append(Goal(f"{what} HAProxy", ours / lane.median, _HALF))
    if len(rivals) > 1:
        best = min(rivals, key=lambda lane: lane.median)
        goals.append(Goal(f"{what} HAProxy at its best ({best.name})", ours / best.median, _HALF))
    return goals


def _table(lanes: Sequence[Lane], found: dict[int, dict[str, list[float]]]) -> str:
    head = ["proxy", *(f"s/GB, {c} connection(s)" for c in CONNECTIONS), *(f"range, {c}" for c in CONNECTIONS)]
    rows = []
    for lane in lanes:
        values = [found[c].get(lane.title, []) for c in CONNECTIONS]
        if all(values):
            medians = [f"{statistics.median(v):.3f}" for v in values]
            rows.append((lane.title, *medians, *(spread(v, ".3f") for v in values)))
    return table(head, sorted(rows, key=lambda row: float(row[1])))

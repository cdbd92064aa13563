"""Latency that a proxy adds to connect + one exchange, against going straight to the origin.

At a fixed rate, well below what two cores can do: at saturation one measures the queue in front of the load generator,
not the proxy.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from tests.bench.children import BenchError
from tests.bench.lanes import Bench, Lane, ours_of, rounds
from tests.bench.results import Goal, Section, table

PEERS = ("microsocks", "squid", "haproxy", "glider")
CLIENTS = 64
_P99_MS, _MEDIAN_MS = 10.0, 0.3
_ONE_RATE = 100.0


def run(bench: Bench, lanes: Sequence[Lane], *, rate: float, seconds: float, times: int) -> Section:
    """`rate` connections a second in all from 64 clients, for `seconds` a lane and round; then some from one."""
    direct = bench.direct_lane()
    crowd: dict[str, list[tuple[float, float]]] = {}
    single: dict[str, list[tuple[float, float]]] = {}

    def measure(lane: Lane) -> float:
        many = _once(bench, lane, int(rate * seconds), rate, CLIENTS)
        one = _once(bench, lane, int(_ONE_RATE * seconds / 2), _ONE_RATE, 1)
        crowd.setdefault(lane.title, []).append(many)
        single.setdefault(lane.title, []).append(one)
        bench.say(f"  {lane.title:32} p50 {many[0]:6.2f} p99 {many[1]:6.2f} ms; one client p50 {one[0]:6.3f} ms")
        return many[1]

    rounds(bench, [direct, *lanes], times, measure)
    text = (
        f"Milliseconds from dialling to the answer of one exchange (64 bytes), {rate:g} connections a second spread "
        f"evenly over {CLIENTS} clients (a rate both cores can carry), and one client alone; {seconds:g} s a "
        f"round, {times} rounds in turn, medians. Added: against straight to the origin, in the same rounds."
    )
    rows, added = [], {}
    base = _medians(crowd[direct.title], single[direct.title])
    for lane in (direct, *lanes):
        if lane.title in crowd:
            values = _medians(crowd[lane.title], single[lane.title])
            added[lane.title] = [value - nothing for value, nothing in zip(values, base, strict=True)]
            rows.append((lane.title, *(f"{v:.3f}" for v in values), *(f"{v:.3f}" for v in added[lane.title])))
    head = ("way", "p50", "p99", "one client p50", "added p50", "added p99", "added, one client")
    return Section("Latency", text, table(head, rows), _goals([added[lane.title] for lane in ours_of(lanes)]))


def _once(bench: Bench, lane: Lane, count: int, rate: float, clients: int) -> tuple[float, float]:
    words = ["-count", str(count), "-clients", str(clients), "-rate", str(rate)]
    done: dict[str, Any] = bench.tools.load.run("connect", *lane.route, *words)
    if done["failed"]:
        raise BenchError(f"{done['failed']} of {count} failed: {done['errors']}")
    return done["p50"] / 1000, done["p99"] / 1000


def _medians(crowd: Sequence[tuple[float, float]], single: Sequence[tuple[float, float]]) -> list[float]:
    columns = (*zip(*crowd, strict=True), [p50 for p50, _ in single])
    return [statistics.median(column) for column in columns]


def _goals(added: Sequence[Sequence[float]]) -> list[Goal]:
    p99, median = (max((values[column] for values in added), default=math.nan) for column in (1, 2))
    return [
        Goal(f"added latency, {CLIENTS} clients, p99", p99, _P99_MS, "ms"),
        Goal("added latency, one client, median", median, _MEDIAN_MS, "ms"),
    ]

"""CPU per connection: connect, 64 bytes there and back, close."""

from collections.abc import Sequence

from tests.bench.children import BenchError
from tests.bench.lanes import Bench, Lane, cheapest_forward, cpu_of, dearest_of_ours, ours_of, rounds
from tests.bench.results import Goal, Section, spread, table

FORWARD = ("microsocks", "microsocks-auth", "squid", "tinyproxy", "dante", "proxy.py", "pproxy", "glider", "gost")
PEERS = (*FORWARD, "haproxy")
_WARM_UP = 300
_CHEAPEST, _HAPROXY = 0.75, 2.0


def run(bench: Bench, lanes: Sequence[Lane], *, count: int, clients: int, times: int) -> Section:
    """`count` connections through each lane in each of `times` rounds, `clients` at once."""

    def measure(lane: Lane) -> float:
        return _once(bench, lane, max(count // lane.weight, 100), clients)

    rounds(bench, lanes, 1, lambda lane: _once(bench, lane, _WARM_UP, clients))
    rounds(bench, lanes, times, measure)
    text = (
        "CPU µs (user + system, all processes of the proxy) per connection: connect, 64 bytes each way, close. "
        f"{count} connections a round (slow peers fewer), {clients} at once, {times} rounds in turn, medians."
    )
    return _section([lane for lane in lanes if lane.values], text)


def _once(bench: Bench, lane: Lane, number: int, clients: int) -> float:
    words = [*lane.route, "-count", str(number), "-clients", str(clients)]
    seconds, done = cpu_of(lane, lambda: bench.tools.load.run("connect", *words))
    if done["failed"] > number / 100:
        raise BenchError(f"{done['failed']} of {number} failed: {done['errors']}")
    micros = float(seconds / done["done"] * 1e6)
    bench.say(f"  {lane.title:32} {micros:7.1f} µs   {done['done'] / done['seconds']:6.0f}/s")
    return micros


def _section(lanes: Sequence[Lane], text: str) -> Section:
    ours, cheapest = dearest_of_ours(lanes), cheapest_forward(lanes)
    haproxy = next((lane for lane in lanes if lane.name == "haproxy"), None)
    goals = []
    for lane in ours_of(lanes):
        what = f"CPU per connection, {lane.title} ÷"
        if cheapest:
            goals.append(
                Goal(f"{what} cheapest forward proxy ({cheapest.title})", lane.median / cheapest.median, _CHEAPEST)
            )
        if haproxy:
            goals.append(Goal(f"{what} HAProxy pass-through", lane.median / haproxy.median, _HAPROXY))
    rows = [
        (
            lane.title,
            lane.version,
            f"{lane.median:.1f}",
            spread(lane.values, ".1f"),
            f"{ours / lane.median:.2f}",
            lane.note,
        )
        for lane in sorted(lanes, key=lambda lane: lane.median)
    ]
    return Section(
        "CPU per connection", text, table(("proxy", "version", "µs", "range", "ours ÷ it", "set up"), rows), goals
    )

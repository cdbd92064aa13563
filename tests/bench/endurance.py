"""A great many connections through one worker: memory and descriptors must not grow, no port may be missing."""

from pathlib import Path

from tests.bench.children import cpu_seconds, descriptors, resident_bytes
from tests.bench.lanes import Bench
from tests.bench.product import STOCK, Product
from tests.bench.results import Goal, Section, table

_SLICES = 20
# What is allocated lazily is there after a tenth; sockets in stock come and go.
_SETTLED = _SLICES // 10
_GROWTH = 1.05


def run(bench: Bench, tree: Path, *, count: int, one_node: int, clients: int) -> Section:
    """`count` connections through the pool, then `one_node` to one address through one node."""
    samples: list[tuple[int, int, int, float]] = []
    failed = 0
    with Product(bench.tools, bench.directory, tree=tree) as product:
        words = product.route("http")
        for number in range(1, _SLICES + 1):
            before = cpu_seconds(product.gateway_roots)
            failed += _connect(bench, words, count // _SLICES, clients)
            spent = (cpu_seconds(product.gateway_roots) - before) / (count // _SLICES) * 1e6
            sample = (count // _SLICES * number, resident_bytes(product.worker), descriptors([product.worker]), spent)
            samples.append(sample)
            bench.say(f"  {sample[0]:8} connections: {sample[1] / 2**20:6.1f} MiB, {sample[2]} descriptors")
        pinned = product.route("http", node=product.exits.ids[0])
        missed = _connect(bench, pinned, one_node, clients)
    rows = [(f"{n}", f"{rss / 2**20:.1f}", f"{files}", f"{micros:.1f}") for n, rss, files, micros in samples]
    settled, last = samples[_SETTLED - 1], samples[-1]
    goals = [
        Goal(f"memory after {count} connections ÷ after a tenth", last[1] / settled[1], _GROWTH),
        Goal("descriptors more than after a tenth", last[2] - settled[2], STOCK),
        Goal(f"failed, of {count} through one worker", failed, 0),
        Goal(f"failed, of {one_node} to one address through one node", missed, 0),
    ]
    text = (
        f"{count} connections through one worker, {clients} at once; then {one_node} to one address and port through "
        "one node, whose namespace has an exit container's sysctls. Worker's resident memory, descriptors, and the "
        "gateway's CPU."
    )
    head = ("connections", "MiB", "descriptors", "µs per connection")
    return Section("Endurance", text, table(head, rows), goals)


def _connect(bench: Bench, words: list[str], count: int, clients: int) -> int:
    done = bench.tools.load.run("connect", *words, "-count", str(count), "-clients", str(clients))
    if done["failed"]:
        bench.say(f"  failed: {done['errors']}")
    return int(done["failed"])

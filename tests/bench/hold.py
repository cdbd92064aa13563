"""Tunnels held open at once over several workers: what each costs in memory, and whether all still carry bytes."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.children import BenchError, Child, descriptors, memory_bytes
from tests.bench.lanes import Bench
from tests.bench.product import STOCK, Product
from tests.bench.results import Goal, Section, table

# A process may have 20,000 descriptors on the smallest machine this runs on, and a tunnel takes two of the gateway's.
_PER_WORKER = 6_500
_PER_CLIENT = 12_500
_MOST_BYTES = 2048
_WARM_UP = 250


def run(bench: Bench, tree: Path, *, count: int) -> Section:
    """Open `count` tunnels, measure, use every one of them, close."""
    workers, parts = -(-count // _PER_WORKER), -(-count // _PER_CLIENT)
    with Product(bench.tools, bench.directory, workers=workers, origins=parts, tree=tree) as product:
        roots = product.gateway_roots + product.agent_roots
        words = product.route("socks")
        bench.tools.load.run("connect", *words, "-count", str(_WARM_UP * workers))
        time.sleep(1)
        before, before_files = memory_bytes(roots), descriptors(roots)
        clients = _open(bench, product, count, parts)
        opened = sum(_answer(client)["open"] for client in clients)
        bench.say(f"  {opened} of {count} tunnels open over {workers} workers")
        held, held_files = memory_bytes(roots), descriptors(roots)
        for client in clients:
            client.tell("use")
        passed = sum(_answer(client)["passed"] for client in clients)
        bench.say(f"  {passed} passed bytes")
        used = memory_bytes(roots)
        for client in clients:
            client.close()
        after_files = _settled(roots)
    rows = [
        ("before", "0", f"{before / 2**20:.1f}", str(before_files)),
        ("held", str(opened), f"{held / 2**20:.1f}", str(held_files)),
        ("each used once more", str(passed), f"{used / 2**20:.1f}", ""),
        ("closed", "0", "", str(after_files)),
    ]
    text = (
        f"{count} tunnels through {workers} workers (SOCKS5 with log-in), {len(clients)} client and {parts} origin "
        "processes. Memory: proportional set size of gateway and agents."
    )
    goals = [
        Goal("process memory per held tunnel", (max(held, used) - before) / max(opened, 1), _MOST_BYTES, "bytes"),
        Goal(f"of {count} tunnels, how many do not pass bytes at the end", count - passed, 0),
        Goal("descriptors more than before, once all are closed", after_files - before_files, STOCK * workers),
    ]
    return Section("Tunnels at once", text, table(("", "tunnels", "MiB", "descriptors"), rows), goals)


def _open(bench: Bench, product: Product, count: int, parts: int) -> list[Child]:
    clients = []
    for number in range(parts):
        words = product.route("socks", origin=number)
        share = count // parts + (number < count % parts)
        # An address of its own each: one has no more than 28,232 ports by default.
        more = ["-source", f"127.0.1.{number + 1}", "-count", str(share)]
        client = Child([bench.tools.load.program, "hold", *words, *more], bench.directory, pipes=True)
        bench.stack.callback(client.close)
        clients.append(client)
    return clients


def _answer(client: Child) -> dict[str, int]:
    line = client.output.readline()
    if not line:
        raise BenchError(f"a client ended: {client.log.read_text()[-500:]}")
    answer: dict[str, int] = json.loads(line)
    return answer


def _settled(roots: Sequence[int]) -> int:
    """Descriptors when they do not get fewer any more, after a minute at most."""
    deadline = time.monotonic() + 60
    last = descriptors(roots)
    while time.monotonic() < deadline:
        time.sleep(1)
        now = descriptors(roots)
        if now >= last:
            break
        last = now
    return last

"""What stands beside the scorer when it is measured: a fleet, its collector, and the workers of some gateways.

python -m tests.bench.scorer_parts URL GATEWAYS
"""

import asyncio
import random
import sys
import time

import uvloop

from health.config import RedisSettings
from health.model import Node
from health.registry import Registry
from health.report import Counts, Report
from tests.bench.api_parts import MACHINE, NODES, made_node, made_sample

WORKERS = 2
_DIALS = 5  # by each worker through each node in a second
_NEWS_S = 5.0


async def fleet(url: str, gateways: int) -> None:
    """Fill a registry, then tell samples and reports once a second."""
    registry, rng = Registry.open(RedisSettings(url=url, timeout=5)), random.Random(4)
    nodes = [made_node(number) for number in range(NODES)]
    for node in nodes:
        await registry.put_node(node)
    await registry.begin_epoch()
    second = 0
    while True:
        second += 1
        await registry.put_samples(MACHINE, [made_sample(node, rng) for node in nodes])
        for number in range(gateways * WORKERS):
            await registry.reports.put(_report(number, second, nodes, rng))
        await asyncio.sleep(1)


def _report(worker: int, second: int, nodes: list[Node], rng: random.Random) -> Report:
    reached = _DIALS * second
    counts = Counts(
        reached=reached,
        node_failures=second // 10,
        target_failures=second // 5,
        dial_ms=50.0 * reached,
        first_bytes=reached,
        first_byte_ms=80.0 * reached,
        in_flight=7,
        quickest_ms=round(rng.uniform(20, 60), 2),
    )
    gateway = f"m{worker // WORKERS}:1"
    return Report(worker=f"{worker:016x}", gateway=gateway, nodes=dict.fromkeys((node.id for node in nodes), counts))


async def scored(url: str) -> int:
    """How many nodes have a score that is news."""
    registry = Registry.open(RedisSettings(url=url, timeout=5))
    try:
        scores = await registry.scores([made_node(number).id for number in range(NODES)])
    finally:
        await registry.close()
    return sum(time.time() - score.at < _NEWS_S for score in scores.values())


def main() -> None:
    url, gateways = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(fleet(url, int(gateways)))


if __name__ == "__main__":
    main()

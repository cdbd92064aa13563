"""What uses Redis when it is measured, each run as a program of its own, with the product's own client and settings.

`write`: 250 nodes; their samples and scores once a second, and a node's record four times a second. `collect`: the
same without the scores, which the real scorer writes. `follow`: a worker's snapshot, kept fresh by the gateway's own
code; says how old each change was when it was there. `offer`: pipelines of commands, one after the other.
"""

import asyncio
import gc
import json
import random
import sys
import time

import uvloop

from gateway.following import follow
from gateway.links import Link
from gateway.pools import Fleet
from health.config import RedisSettings
from health.model import Node, Pool, Score
from health.registry import PREFIX, Registry, Scored, Snapshot
from health.registry.opening import client
from tests.bench.api_parts import COUNTRIES, MACHINE, NODES, _score, made_node, made_sample
from tests.gateway.stub_fleet import StubLink

CHANGES_A_SECOND = 4
PIPELINE = 250


async def write(url: str, *, scores: bool) -> None:
    """Records carry the moment (CLOCK_MONOTONIC, the same for all processes) at which they were written."""
    registry, rng = Registry.open(RedisSettings(url=url, timeout=5)), random.Random(4)
    nodes = [made_node(number).model_copy(update={"changed_at": 0.0}) for number in range(NODES)]
    for node in nodes:
        await registry.put_node(node)
    for country in COUNTRIES:
        await registry.put_pool(Pool(country=country, desired=NODES // len(COUNTRIES)))
    await registry.begin_epoch()
    changing = asyncio.create_task(_change(registry, nodes, rng)) if scores else None
    due = time.monotonic()
    while True:
        await registry.put_samples(MACHINE, [made_sample(node, rng) for node in nodes])
        if changing is not None:
            fresh = [_score(node, rng) for node in nodes]
            now = time.monotonic()
            await registry.put_scores([score.model_copy(update={"at": now}) for score in fresh])
        due += 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _change(registry: Registry, nodes: list[Node], rng: random.Random) -> None:
    """One node at a time, at any moment."""
    while True:
        await asyncio.sleep(rng.uniform(0, 2 / CHANGES_A_SECOND))
        await registry.put_node(rng.choice(nodes).model_copy(update={"changed_at": time.monotonic()}))


class Watching(Fleet):
    """Notes how old every change was when the choice could go by it. Links are stubs: nobody dials."""

    def __init__(self) -> None:
        super().__init__(MACHINE)
        self.delays: dict[str, list[float]] = {"score": [], "node": []}
        self.reads = 0
        self._newest = {"score": 0.0, "node": 0.0}

    def open_link(self, node: Node) -> Link | None:
        link = StubLink(node.id)
        link.number = node.generation
        return link

    def update(self, snapshot: Snapshot) -> None:
        super().update(snapshot)
        self.reads += 1
        self._note("node", [node.changed_at for node in snapshot.nodes.values()])
        self._note("score", [score.at for score in snapshot.scores.values()])

    def rescore(self, told: Scored) -> bool:
        taken = super().rescore(told)
        if taken:
            self._note("score", [score.at for score in told.scores])
        return taken

    def _note(self, kind: str, moments: list[float]) -> None:
        now, newest = time.monotonic(), max(moments, default=0.0)
        if newest > self._newest[kind] and now > newest:  # scores of the real scorer carry the time of day
            if self._newest[kind]:
                self.delays[kind].append(now - newest)
            self._newest[kind] = newest


async def watch(url: str, seconds: float, begin: float) -> None:
    """Follow, and tell of it from `begin` (CLOCK_MONOTONIC) on, when all have started."""
    gc.collect()
    gc.freeze()  # as a worker does
    fleet, registry = Watching(), Registry.open(RedisSettings(url=url))
    task = asyncio.create_task(follow(fleet, registry))
    await asyncio.sleep(begin - time.monotonic())
    for delays in fleet.delays.values():
        delays.clear()
    fleet.reads, cpu, started = 0, time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - started
    told = {"cpu": (time.process_time() - cpu) / took, "reads": fleet.reads / took, "delays": fleet.delays}
    print(json.dumps(told), flush=True)
    task.cancel()


async def offer(url: str, kind: str, seconds: float) -> None:
    """As many `set` (with an expiry) or `get` as one process gets done, in pipelines like those of the collector."""
    redis = client(RedisSettings(url=url, timeout=5))
    value = Score(node="jp000000", at=1.0, value=90.0, healthy=True, terms={"up": 1.0}).dump()
    done, cpu, started = 0, time.process_time(), time.monotonic()
    while time.monotonic() - started < seconds:
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(PIPELINE):
                if kind == "set":
                    pipe.set(f"{PREFIX}sample:jp{number:06x}", value, ex=5)
                else:
                    pipe.get(f"{PREFIX}sample:jp{number:06x}")
            await pipe.execute()
        done += PIPELINE
    took = time.monotonic() - started
    print(json.dumps({"done": done, "seconds": took, "cpu": time.process_time() - cpu}), flush=True)
    await redis.aclose()


def main() -> None:
    """`write URL`, `collect URL`, `follow URL SECONDS BEGIN` or `offer URL set|get SECONDS`."""
    mode, url, *rest = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if mode == "follow":
            runner.run(watch(url, float(rest[0]), float(rest[1])))
        elif mode == "offer":
            runner.run(offer(url, rest[0], float(rest[1])))
        else:
            runner.run(write(url, scores=mode == "write"))


if __name__ == "__main__":
    main()

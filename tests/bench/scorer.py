"""What the scorer costs: 250 nodes a second, with the samples of their collectors and the reports of gateways.

The scorer is the product's own process on the first core, Redis and what tells it on the other. Its CPU time is all
that counts: how long it runs beside that is the interval's to say.
"""

import asyncio
import statistics
import time
from pathlib import Path

from deploy import redis_binary
from tests.bench import scorer_parts
from tests.bench.api_parts import NODES
from tests.bench.children import PROXY_UID, BenchError, Child, cpu_seconds
from tests.bench.lanes import Bench
from tests.bench.results import Goal, Section, spread, table

_MOST_PERCENT = 5.0
_GATEWAYS = (0, 2, 8)  # of two workers each
_SETTLE_S = 3.0


def run(bench: Bench, tree: Path, *, seconds: float, times: int) -> Section:
    """`times` measurements of `seconds` with each number of gateways."""
    rows, percents = [], {}
    for gateways in _GATEWAYS:
        values = _measured(bench, tree, gateways, seconds, times)
        percents[gateways] = statistics.median(values)
        bench.say(f"  {gateways} gateways: {percents[gateways]:.2f} % of a core")
        rows.append([str(gateways), f"{percents[gateways]:.2f}", spread(values, ".2f")])
    text = (
        f"`vpnexit scorer` with {NODES} nodes in 25 countries whose samples change every second, beside a real Redis; "
        "each gateway has two workers that dialled through every node in every second. Scored once a second. CPU time "
        f"of the scorer alone, user and system, in percent of one core; {times} times {seconds:g} s, medians."
    )
    goals = [
        Goal(f"scorer, {NODES} nodes a second, {gateways} gateways, CPU", percent, _MOST_PERCENT, "% of a core")
        for gateways, percent in percents.items()
    ]
    return Section("Scorer", text, table(("gateways", "% of a core", "lowest-highest"), rows), goals)


def _measured(bench: Bench, tree: Path, gateways: int, seconds: float, times: int) -> list[float]:
    place = bench.directory / f"scorer-{gateways}"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    socket = place / "redis.sock"
    config = place / "scorer.toml"
    config.write_text(f'state_dir = "{place}"\nlog_level = "info"\n[redis]\nurl = "unix://{socket}"\n')
    environment = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    children = []

    def child(core: int, *words: str | Path) -> Child:
        made = Child(["taskset", "-c", str(core), *words], place, user=PROXY_UID, environment=environment)
        bench.stack.callback(made.close)
        children.append(made)
        return made

    try:
        redis = child(1, redis_binary.find(), "--port", "0", "--unixsocket", socket, "--save", "", "--dir", place)
        redis.wait_for(socket.exists)
        python = bench.tools.python
        fleet = child(1, python, "-P", "-m", "tests.bench.scorer_parts", f"unix://{socket}", str(gateways))
        scorer = child(0, python, "-P", "-m", "deploy.cli", "scorer", "--config", config)
        scorer.wait_for(lambda: "leading" in scorer.log.read_text())
        time.sleep(_SETTLE_S)
        values = []
        for _ in range(times):
            before, began = cpu_seconds([scorer.pid]), time.monotonic()
            time.sleep(seconds)
            values.append((cpu_seconds([scorer.pid]) - before) / (time.monotonic() - began) * 100)
        for one in (redis, fleet, scorer):
            one.check()
        scored = asyncio.run(scorer_parts.scored(f"unix://{socket}"))
        if scored != NODES:
            raise BenchError(f"only {scored} of {NODES} nodes were scored: {scorer.log.read_text()[-500:]}")
        return values
    finally:
        for one in reversed(children):
            one.close()

"""`make bench`: the product and its peers, measured side by side in one run."""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from tests.bench import api, bulk, connect, endurance, fetch, hold, latency, profile, scorer, store
from tests.bench.children import PROXY_UID, BenchError
from tests.bench.lanes import Bench, Lane
from tests.bench.product import OURS, ROOT, Product
from tests.bench.results import Section, document, notes

RESULTS = Path(__file__).parent / "RESULTS.md"
_PEERS = {
    "connect": connect.PEERS,
    "bulk": bulk.PEERS,
    "latency": latency.PEERS,
    "calls": profile.PEERS,
}
FIGURES = (*_PEERS, "hold", "endurance", "api", "scorer", "propagation", "redis")
_FUNCTIONS = "functions"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write RESULTS.md after a whole run. Returns the exit status."""
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        print("bench: run it as root: exits need network namespaces, and proxies a user of their own", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        with bench() as made:
            page = document(fetch.machine(), list(_measure(made, options)), made.skipped)
    except (BenchError, fetch.MissingError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(page)
    written = options.write or (RESULTS if options.figures == [] else None)
    if written is not None:
        written.write_text(page + notes(written))
    return 0


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A run's tools and a directory of its own; everything is ended and removed afterwards."""
    tools = fetch.tools()
    directory = Path(tempfile.mkdtemp(prefix=f"vpnexit-bench-{os.getpid()}-"))
    # Programs under other users write their logs, sockets and settings here.
    directory.chmod(0o777)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        yield Bench(tools, directory, stack, say)


def _measure(made: Bench, options: argparse.Namespace) -> Iterator[Section]:
    wanted = options.figures or FIGURES
    if {*_PEERS, _FUNCTIONS} & {*wanted}:
        yield from _side_by_side(made, options, wanted)
    tree = options.tree[0] if options.tree else ROOT
    if "hold" in wanted:
        made.say("hold")
        yield hold.run(made, tree, count=options.tunnels)
    if "endurance" in wanted:
        made.say("endurance")
        one_node = options.connections // 10
        yield endurance.run(made, tree, count=options.connections, one_node=one_node, clients=options.clients)
    if "api" in wanted:
        made.say("api")
        yield api.run(made, tree, seconds=options.latency_seconds, times=options.rounds)
    if "scorer" in wanted:
        made.say("scorer")
        yield scorer.run(made, tree, seconds=options.latency_seconds, times=options.rounds)
    if "propagation" in wanted:
        made.say("propagation")
        yield store.propagation(made, tree, seconds=4 * options.latency_seconds)
    if "redis" in wanted:
        made.say("redis")
        yield store.usage(made, tree, seconds=options.latency_seconds)


def _side_by_side(made: Bench, options: argparse.Namespace, wanted: Sequence[str]) -> Iterator[Section]:
    """The figures that compare: everything is started once, and idles while others are measured."""
    names = {name for figure in wanted for name in _PEERS.get(figure, ())}
    if options.peers is not None:
        names = set(options.peers.split(","))
    with contextlib.ExitStack() as stack:
        products = [stack.enter_context(product) for product in _products(made, options.tree)]
        ours = [lane for product in products for lane in made.product_lanes(product)]
        peers = made.peer_lanes(names)
        count, clients, times = options.count, options.clients, options.rounds

        def lanes(figure: str) -> list[Lane]:
            made.say(figure)
            return [*ours, *(lane for lane in peers if options.peers or lane.name in _PEERS[figure])]

        if "connect" in wanted:
            yield connect.run(made, lanes("connect"), count=count, clients=clients, times=times)
        if "bulk" in wanted:
            yield bulk.run(made, lanes("bulk"), size=int(options.gigabytes * 10**9), times=times)
        if "latency" in wanted:
            seconds = options.latency_seconds
            yield latency.run(made, lanes("latency"), rate=options.rate, seconds=seconds, times=times)
        if "calls" in wanted:
            yield profile.calls(made, lanes("calls"), count=min(count, 2000), clients=clients)
        if _FUNCTIONS in wanted:
            for lane in ours:
                yield profile.functions(made, lane, count=count, clients=clients)


def _products(made: Bench, trees: Sequence[Path] | None) -> Iterator[Product]:
    """Ours, from each of the trees; the first is the one that the goals are about."""
    for number, tree in enumerate(trees or [ROOT]):
        name = f"{OURS} ({tree.name})" if number else OURS
        yield Product(made.tools, made.directory, tree=tree, name=name, user=PROXY_UID - number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    add = parser.add_argument
    known = (*FIGURES, _FUNCTIONS)
    add("figures", nargs="*", type=_one_of(known), help=f"{', '.join(known)} (default: all but the last)")
    add("--peers", help="names, separated by commas; empty for none (default: those the figures are about)")
    add("--tree", type=Path, action="append", help="run ours from this checkout; several are set side by side")
    add("--count", type=int, default=10_000, help="connections a lane and round (default: %(default)s)")
    add("--clients", type=int, default=32, help="connections at once (default: %(default)s)")
    add("--rounds", type=int, default=5, help="how often each lane has its turn (default: %(default)s)")
    add("--gigabytes", type=float, default=1, help="bulk: 10^9 bytes a lane and round (default: %(default)s)")
    add("--rate", type=float, default=400, help="latency: connections a second (default: %(default)s)")
    add(
        "--latency-seconds",
        type=float,
        default=5,
        help="latency, api, scorer: of each turn (default: %(default)s)",
    )
    add("--tunnels", type=int, default=50_000, help="hold: tunnels at once (default: %(default)s)")
    add("--connections", type=int, default=1_000_000, help="endurance: connections in all (default: %(default)s)")
    add("--write", type=Path, help="where the page goes (default: RESULTS.md after a whole run)")
    return parser


def _one_of(known: Sequence[str]) -> Callable[[str], str]:
    # `choices` would refuse the empty list that stands for all.
    def check(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(known)}")
        return text

    return check


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

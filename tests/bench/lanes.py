"""What stands side by side in a run: each lane is one way through one proxy, with the processes it costs.

Everything is started once; rounds then go through the lanes in turn, so that a noisy moment hits all alike.
"""

import contextlib
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import fetch
from tests.bench.children import BenchError, Child, cpu_seconds
from tests.bench.clients import USER, route
from tests.bench.exits import Origin, Tools
from tests.bench.peers import PEERS, Running
from tests.bench.product import OURS, Product

_ON = "log-in, 4 nodes, health_score, address check, metrics, log of every connection"
# After the last close a proxy still has its own half to do.
_SETTLE_S = 0.15


@dataclass(slots=True)
class Lane:
    """`roots` are the processes that count; `route` is what the load generator is told."""

    name: str
    speak: str
    route: list[str]
    roots: list[int]
    child: Child | None = None
    weight: int = 1
    note: str = ""
    version: str = ""
    values: list[float] = field(default_factory=list)

    @property
    def title(self) -> str:
        spoken = {"http": "HTTP CONNECT", "socks": "SOCKS5", "direct": "TCP"}[self.speak]
        return f"{self.name}, {spoken}"

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(slots=True)
class Bench:
    """One run: the tools, where its files are, and what is torn down at its end."""

    tools: Tools
    directory: Path
    stack: contextlib.ExitStack
    say: Callable[[str], None]
    skipped: dict[str, str] = field(default_factory=dict)

    def product_lanes(self, product: Product) -> list[Lane]:
        """The ways through ours: everything on, as an operator has it."""
        return [
            Lane(
                product.name,
                speak,
                product.route(speak),
                product.gateway_roots + product.agent_roots,
                note=f"{_ON}, {'compiled' if product.compiled else 'not compiled'}",
                version=fetch.commit(product.tree),
            )
            for speak in ("http", "socks")
        ]

    def peer_lanes(self, names: Collection[str]) -> list[Lane]:
        """Start the peers of these names; one that cannot be had is noted and left out."""
        target = self.origin().target
        lanes = []
        for peer in PEERS:
            if peer.name not in names:
                continue
            try:
                program = fetch.peer_program(peer)
                running = Running(peer, program, self.directory, target, fetch.environment())
            except (fetch.MissingError, BenchError, OSError) as error:
                self.leave_out(peer.name, error)
                continue
            self.stack.callback(running.close)
            told = fetch.peer_version(peer, program)
            user = USER if peer.login else ""
            lanes += [
                Lane(
                    peer.name,
                    speak,
                    route(speak, running.address, target, user),
                    running.roots,
                    running.child,
                    peer.weight,
                    peer.note,
                    told,
                )
                for speak in peer.speaks
            ]
        return lanes

    def leave_out(self, what: str, why: Exception) -> None:
        """Tell, at once and on the page, that something is missing."""
        self.skipped[what] = " ".join(str(why).split())[:300]
        self.say(f"without {what}: {self.skipped[what]}")

    def direct_lane(self) -> Lane:
        """No proxy at all."""
        target = self.origin().target
        return Lane("no proxy", "direct", route("direct", target, target), [])

    def origin(self) -> Origin:
        """A fresh origin in this machine's own namespace."""
        origin = Origin(self.tools, self.directory)
        self.stack.callback(origin.close)
        return origin


def rounds(bench: Bench, lanes: Sequence[Lane], count: int, measure: Callable[[Lane], float]) -> None:
    """Go through all lanes `count` times; a lane that fails is told and left out of the rest."""
    alive = list(lanes)
    for lane in alive:
        lane.values = []
    for number in range(count):
        for lane in list(alive):
            try:
                lane.values.append(measure(lane))
            except (BenchError, OSError, subprocess.SubprocessError) as error:
                bench.leave_out(f"{lane.title}, from round {number + 1} on", error)
                alive.remove(lane)


def ours_of(lanes: Sequence[Lane]) -> list[Lane]:
    """The product's lanes from the first tree, those that were measured."""
    return [lane for lane in lanes if lane.name == OURS and lane.values]


def dearest_of_ours(lanes: Sequence[Lane]) -> float:
    """What the dearer of the product's protocols costs: that one is held against the goals. NaN without a figure."""
    return max((lane.median for lane in ours_of(lanes)), default=math.nan)


def cheapest_forward(lanes: Sequence[Lane]) -> Lane | None:
    """The cheapest peer that speaks a proxy protocol."""
    peers = [lane for lane in lanes if lane.roots and lane.child and lane.speak != "direct" and lane.values]
    return min(peers, key=lambda lane: lane.median, default=None)


def cpu_of(lane: Lane, work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of the lane's processes while `work` is done, and what it returned."""
    before = cpu_seconds(lane.roots)
    done = work()
    time.sleep(_SETTLE_S)
    return cpu_seconds(lane.roots) - before, done

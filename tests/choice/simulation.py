"""A fleet in virtual time: made-up nodes and clients, the product's own choice, reports and scores.

What runs is `gateway.roster`, `gateway.balance` and `gateway.reporter` in two gateways, and `health.book` once a
second; nodes, agents, connections and the time they take are simulated. Everything is drawn from one seed.
"""

import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from gateway.metrics import Metrics
from gateway.reporter import Reporter
from gateway.roster import Roster, Seat
from gateway.want import Want
from health.book import Book
from health.model import Node, NodeStatus, Pool, Sample, Score, Strategy, Tunnel
from health.reasons import Reason
from health.registry.reports import Told

WALL = 1_800_000_000.0
PROBE_S = 2.0
DOUBT_S = 0.5
GIVE_UP_S = 10.0
JP = Want(country="jp")


@dataclass
class Exit:
    """A node as it truly is. Times in ms; `noise` is the deviation of the logarithm of what a dial takes, one in
    `spike_every` dials and probes takes five times as long. It is black from `dies_at` on, slower by `slower_ms`
    between the two times of `slow`."""

    id: str
    latency_ms: float = 50.0
    noise: float = 0.15
    spike_every: int = 1000
    failing: float = 0.0
    slower_ms: float = 0.0
    slow: tuple[float, float] = (0.0, float("inf"))
    dies_at: float = float("inf")
    capacity: float = 60.0
    in_flight: int = 0
    usable: bool = True
    generation: int = 1

    def expected_ms(self, now: float) -> float:
        """What a dial takes, on average, as loaded as it is."""
        extra = self.slower_ms if self.slow[0] <= now < self.slow[1] else 0.0
        return (self.latency_ms + extra) * (1 + self.in_flight / self.capacity)

    def drawn_ms(self, now: float, rng: random.Random) -> float:
        spiked = 5.0 if rng.random() * self.spike_every < 1 else 1.0
        return self.expected_ms(now) * rng.lognormvariate(0.0, self.noise) * spiked


@dataclass
class Link:
    """A gateway's way to an exit."""

    exit: Exit
    in_flight: int = 0

    @property
    def carried(self) -> "Link":
        return self

    @property
    def usable(self) -> bool:
        return self.exit.usable

    @property
    def generation(self) -> int:
        return self.exit.generation


@dataclass
class Agent:
    """Probes its exit every 2 s, every half second while in doubt, and calls it down after three failures in a row."""

    exit: Exit
    connect_ms: float | None = None
    failures: int = 0
    answers: list[bool] = field(default_factory=list)
    tx_bytes: int = 0
    rx_bytes: int = 0

    def probe(self, now: float, rng: random.Random) -> float:
        """One probe; how long until the next one."""
        lost = now >= self.exit.dies_at
        self.answers = [*self.answers[-19:], not lost]
        self.tx_bytes += 100
        self.failures = self.failures + 1 if lost else 0
        if not lost:
            self.rx_bytes += 100
            self.connect_ms = self.exit.drawn_ms(now, rng)
        elif self.failures >= 3:
            self.exit.usable = False
        return (DOUBT_S if lost else PROBE_S) * rng.uniform(0.9, 1.1)

    def sample(self, now: float) -> Sample:
        return Sample(
            node=self.exit.id,
            at=WALL + now,
            reachable=True,
            tunnel=Tunnel.UP if self.exit.usable else Tunnel.DOWN,
            generation=1,
            kill_switch=True,
            probe_ms=self.connect_ms,
            connect_ms=self.connect_ms,
            loss=self.answers.count(False) / len(self.answers) if self.answers else 0.0,
            tx_bytes=self.tx_bytes,
            rx_bytes=self.rx_bytes,
        )


Oracle = Callable[[Sequence[Seat], "World"], Seat]


@dataclass
class Request:
    """One connection of a client: which nodes it was tried on, and what it took in seconds."""

    started: float
    gateway: "Gateway"
    tried: list[str] = field(default_factory=list)
    seconds: float | None = None


class Gateway:
    """One gateway's worker. `informed`: it takes scores, and leaves nodes out; else it only knows who is hard-down."""

    def __init__(self, world: "World", name: str, strategy: Strategy, informed: bool, chooser: Any) -> None:
        self.world = world
        self.informed = informed
        self.chooser = chooser
        self.roster = Roster(world.rng)
        self.links: dict[str, Any] = {name: Link(one) for name, one in world.exits.items()}
        self.metrics = Metrics()
        self.reporter = Reporter(None, SimpleNamespace(roster=self.roster), self.metrics, name)  # type: ignore[arg-type]
        self.roster.take_pools({"jp": Pool(country="jp", strategy=strategy)})
        self.roster.take_nodes(world.nodes, self.links)
        self.roster.look(0.0)

    def refresh(self, scores: dict[str, Score], now: float) -> None:
        if self.informed:
            self.roster.take_scores(scores, now)
            self.roster.judge(now)
        self.roster.look(now)

    def choose(self, tried: Sequence[str]) -> Seat | None:
        if self.chooser is not None:
            left = [seat for seat in self.roster.seats.values() if seat.ready and seat.id not in tried]
            return self.chooser(left, self.world) if left else None
        return self.roster.choose(JP, (), tried, self.world.now)

    def failed(self, seat: Seat) -> None:
        if seat.ready and seat.failed(self.world.now) and self.informed:
            self.roster.expire()
        elif not self.informed:
            seat.out_until = -1e9


class World:
    """`rate` connections a second for `seconds`, each open for `hold_s` on average after it was answered."""

    def __init__(
        self,
        exits: Sequence[Exit],
        *,
        strategy: Strategy = Strategy.HEALTH_SCORE,
        informed: bool = True,
        oracle: Oracle | None = None,
        gateways: int = 2,
        rate: float = 200.0,
        hold_s: float = 0.5,
        seed: int = 1,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.exits = {one.id: one for one in exits}
        self.nodes = {
            i: Node(id=i, country="jp", kind="vpn", machine="m", status=NodeStatus.SERVING, generation=1)  # type: ignore[arg-type]
            for i in self.exits
        }
        self.agents = {i: Agent(one) for i, one in self.exits.items()}
        self.gateways = [Gateway(self, f"g{n}", strategy, informed, oracle) for n in range(gateways)]
        self.book = Book()
        for node in self.nodes:
            self.book.begin(node, None, 0.0)
        self.rate = rate
        self.hold_s = hold_s
        self.requests: list[Request] = []
        self.chosen: dict[int, Counter[str]] = defaultdict(Counter)  # by second
        self.changes: Counter[str] = Counter()  # of state, by node
        self.panic = False
        self._states: dict[str, tuple[bool, str]] = {}
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._hanging: dict[str, list[tuple[Request, Seat]]] = defaultdict(list)

    def run(self, seconds: float) -> "World":
        for agent in self.agents.values():
            self._at(self.rng.uniform(0, 0.2), self._probe, agent)
        self._at(1.0, self._second)
        self._at(0.0, self._arrive)
        while self._events and self._events[0][0] < seconds:
            self.now, _, what, arguments = heapq.heappop(self._events)
            what(*arguments)
        return self

    def percentile(self, share: float) -> float:
        """Of what connections took; one that came to nothing took as long as a client waits."""
        times = sorted(GIVE_UP_S if r.seconds is None else r.seconds for r in self.requests if r.started < self.now - 1)
        return times[min(int(share * len(times)), len(times) - 1)]

    def share(self, node: str, first: float, last: float) -> float:
        """Of the connections that began between two seconds."""
        counted = [self.chosen[second] for second in range(int(first), int(last))]
        return sum(one[node] for one in counted) / sum(one.total() for one in counted)

    def _at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what, arguments))

    def _probe(self, agent: Agent) -> None:
        if agent.exit.usable:
            self._at(self.now + agent.probe(self.now, self.rng), self._probe, agent)
            if not agent.exit.usable:
                self._went_down(agent.exit)

    def _went_down(self, one: Exit) -> None:
        """The agent says so, and its gateways try what hangs there elsewhere."""
        for request, seat in self._hanging.pop(one.id, []):
            self._leave(seat)
            self._dial(request)

    def _second(self) -> None:
        self._at(self.now + 1.0, self._second)
        reports = tuple(gateway.reporter.report() for gateway in self.gateways)
        samples = {i: agent.sample(self.now) for i, agent in self.agents.items()}
        self.book.look(self.nodes, Told(samples, frozenset(), frozenset({"m"}), reports), self.now, WALL + self.now)
        scores = {score.node: score for score in self.book.scores}
        self.panic = self.panic or any(self.book.panic.values())
        for node, score in scores.items():
            state = (score.healthy, score.ejected)
            self.changes[node] += self._states.get(node, state) != state
            self._states[node] = state
        # Reports and samples are up to a second old when they are read, and scores 0.2 s when they are known.
        self._at(self.now + 0.2, self._known, scores)

    def _known(self, scores: dict[str, Score]) -> None:
        for gateway in self.gateways:
            gateway.refresh(scores, self.now)

    def _arrive(self) -> None:
        self._at(self.now + self.rng.expovariate(self.rate), self._arrive)
        request = Request(self.now, self.rng.choice(self.gateways))
        self.requests.append(request)
        self._dial(request)

    def _dial(self, request: Request) -> None:
        seat = request.gateway.choose(request.tried)
        if seat is None:
            return
        if not request.tried:
            self.chosen[int(self.now)][seat.id] += 1
        request.tried.append(seat.id)
        one = self.exits[seat.id]
        took = one.drawn_ms(self.now, self.rng) / 1000
        one.in_flight += 1
        seat.link.in_flight += 1  # type: ignore[misc]
        if self.now >= one.dies_at:
            self._hanging[seat.id].append((request, seat))
        elif self.rng.random() < one.failing:
            self._at(self.now + took, self._failed, request, seat)
        else:
            self._at(self.now + took, self._connected, request, seat, self.now)

    def _failed(self, request: Request, seat: Seat) -> None:
        self._leave(seat)
        request.gateway.failed(seat)
        request.gateway.metrics.dial_failed("jp", seat.id, Reason.NODE_DIAL)
        self._dial(request)

    def _connected(self, request: Request, seat: Seat, dialled_at: float) -> None:
        seat.worked(self.now - dialled_at)
        answer = self.exits[seat.id].drawn_ms(self.now, self.rng) / 1000
        self._at(self.now + answer, self._answered, request, seat, answer)

    def _answered(self, request: Request, seat: Seat, answer: float) -> None:
        request.gateway.metrics.first_byte("jp", seat.id, answer)
        request.seconds = self.now - request.started
        self._at(self.now + self.rng.expovariate(1 / self.hold_s), self._leave, seat)

    def _leave(self, seat: Seat) -> None:
        self.exits[seat.id].in_flight -= 1
        seat.link.in_flight -= 1  # type: ignore[misc]


def oracle(left: Sequence[Seat], world: World) -> Seat:
    """Knows what every node truly is at this moment, and all that is in flight everywhere."""
    return min(left, key=lambda seat: (cost(world.exits[seat.id], world.now), world.rng.random()))


def cost(one: Exit, now: float) -> float:
    return float("inf") if now >= one.dies_at else one.expected_ms(now) / (1 - one.failing) ** 2

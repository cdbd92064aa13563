"""What the gateways' reports say of a node, taken together. Pure: `now` (monotonic seconds) comes in.

Reports count from their worker's start; what counts here is the difference between two of them, so that workers add up
to a gateway and none is counted twice. It fades with a time constant of 15 s.

Every gateway forms an opinion of its own: the share of dials that failed by the node's fault (of at least 20, so that
few dials say little), how quick the quickest dial of the last 5 or more was, the share of connections that the target
answered on, be it by a refusal: what turns a client away has come through the node. The fleet's opinion is the median
of these, each weighing as much as the dials behind it and never more than 100, and the one in the node's favour where
two halves differ: a gateway that is alone with what it says moves nothing. What a target or a client did wrong enters
nowhere.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import exp

from health.report import Counts, Report

FADE_S = 15.0
FEWEST_DIALS = 20.0
MOST_WEIGHT = 100.0
QUICKEST_OF = 5  # a slow target counts only where that many dials in a row went to nothing else
FORGET_S = 60.0  # a worker that was not heard of for so long
ALONE = 0.5  # so far from the others' share of failures is a lie, or a gateway with a trouble of its own
_FADED = 0.01


@dataclass(frozen=True, slots=True)
class Seen:
    """What the gateways saw of one node lately.

    `failures` is a share, 0 to 1, of `dials` (fading, node-caused failures and successes only); `quickest_ms` None
    where too little was dialled since the last look; `answered` the share of connections on which anything came from
    the target (bytes, a refusal, the end), None where nothing was dialled. The rest is for people to see: means in ms,
    dials that the target or the client spoilt, and connections now.
    """

    failures: float = 0.0
    dials: float = 0.0
    quickest_ms: float | None = None
    answered: float | None = None
    dial_ms: float | None = None
    first_byte_ms: float | None = None
    target_failures: float = 0.0
    client_failures: float = 0.0
    in_flight: int = 0


@dataclass(slots=True)
class _Tally:
    """One gateway's view of one node, fading."""

    reached: float = 0.0
    failed: float = 0.0
    target_failures: float = 0.0
    client_failures: float = 0.0
    dial_ms: float = 0.0
    first_bytes: float = 0.0
    first_byte_ms: float = 0.0
    turned_away: float = 0.0
    since_quickest: float = 0.0  # dials
    quickest_ms: float | None = None

    @property
    def dials(self) -> float:
        return self.reached + self.failed

    @property
    def weight(self) -> float:
        return min(self.dials, MOST_WEIGHT)

    @property
    def failures(self) -> float:
        return self.failed / max(self.dials, FEWEST_DIALS)

    @property
    def answered(self) -> float:
        return min((self.first_bytes + self.turned_away) / self.reached, 1.0)

    @property
    def gone(self) -> bool:
        return self.dials + self.target_failures + self.client_failures < _FADED

    def fade(self, share: float) -> None:
        self.reached *= share
        self.failed *= share
        self.target_failures *= share
        self.client_failures *= share
        self.dial_ms *= share
        self.first_bytes *= share
        self.first_byte_ms *= share
        self.turned_away *= share

    def add(self, old: Counts, new: Counts) -> None:
        self.reached += new.reached - old.reached
        self.failed += new.node_failures - old.node_failures
        self.target_failures += new.target_failures - old.target_failures
        self.client_failures += new.client_failures - old.client_failures
        self.dial_ms += new.dial_ms - old.dial_ms
        self.first_bytes += new.first_bytes - old.first_bytes
        self.first_byte_ms += new.first_byte_ms - old.first_byte_ms
        self.turned_away += new.turned_away - old.turned_away
        self.since_quickest += new.reached - old.reached
        if new.quickest_ms is not None and new.reached > old.reached:
            known = self.quickest_ms
            self.quickest_ms = new.quickest_ms if known is None else min(new.quickest_ms, known)

    def take_quickest(self) -> float | None:
        """The quickest of the last dials, once there are enough; then the next ones begin."""
        if self.since_quickest < QUICKEST_OF:
            return None
        taken, self.quickest_ms, self.since_quickest = self.quickest_ms, None, 0.0
        return taken


@dataclass(slots=True)
class _Worker:
    """What a worker told last."""

    heard_at: float
    counts: dict[str, Counts] = field(default_factory=dict)


class Evidence:
    """All gateways' reports. `ignored` counts what was told and did not count, by why."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._tallies: dict[str, dict[str, _Tally]] = {}  # by node, by gateway
        self._seen: dict[str, Seen] = {}
        self._at: float | None = None
        self.ignored: Counter[str] = Counter()

    def seen(self, node: str) -> Seen:
        """What was seen of `node`, as of the last `take`."""
        return self._seen.get(node, NOTHING)

    def take(self, reports: Iterable[Report], known: Collection[str], now: float) -> None:
        """The reports as they are now; `known` are the nodes there are. Each is to be read again and again."""
        self._fade(now)
        in_flight: Counter[str] = Counter()
        for report in reports:
            worker = self._workers.setdefault(report.worker, _Worker(now))
            worker.heard_at = now
            for node, counts in report.nodes.items():
                if node not in known:
                    self.ignored["unknown_node"] += 1
                    continue
                in_flight[node] += counts.in_flight
                self._count(report.gateway, worker, node, counts)
        self._forget(known, now)
        nodes = self._tallies.keys() | in_flight.keys()
        self._seen = {node: self._judged(list(self._tallies.get(node, {}).values()), in_flight[node]) for node in nodes}

    def _count(self, gateway: str, worker: _Worker, node: str, counts: Counts) -> None:
        old = worker.counts.get(node)
        if old is counts or old == counts:
            return
        worker.counts[node] = counts
        if old is None:
            return  # how long it took to come to that is not known
        if not _follows(old, counts):
            self.ignored["backwards"] += 1
            return
        self._tallies.setdefault(node, {}).setdefault(gateway, _Tally()).add(old, counts)

    def _fade(self, now: float) -> None:
        share = 1.0 if self._at is None else exp(-max(now - self._at, 0.0) / FADE_S)
        self._at = now
        for tallies in self._tallies.values():
            for tally in tallies.values():
                tally.fade(share)

    def _forget(self, known: Collection[str], now: float) -> None:
        for name in [name for name, worker in self._workers.items() if now - worker.heard_at > FORGET_S]:
            del self._workers[name]
        for worker in self._workers.values():
            for node in worker.counts.keys() - known:
                del worker.counts[node]
        for node, tallies in list(self._tallies.items()):
            for gateway in [gateway for gateway, tally in tallies.items() if tally.gone]:
                del tallies[gateway]
            if not tallies or node not in known:
                del self._tallies[node]

    def _judged(self, tallies: list[_Tally], in_flight: int) -> Seen:
        heard = [tally for tally in tallies if tally.dials > 0]
        failures = _lower_median([(tally.failures, tally.weight) for tally in heard]) or 0.0
        alone = [t for t in heard if t.dials >= FEWEST_DIALS and abs(t.failures - failures) > ALONE]
        self.ignored["alone"] += len(alone)
        quickest = [(ms, t.weight) for t in heard if (ms := t.take_quickest()) is not None]
        silent = [(-t.answered, t.weight) for t in heard if t.reached > 0]
        answered = _lower_median(silent)
        reached = sum(t.reached for t in heard)
        first_bytes = sum(t.first_bytes for t in heard)
        return Seen(
            failures=failures,
            dials=sum(t.dials for t in heard),
            quickest_ms=_lower_median(quickest),
            answered=None if answered is None else -answered,
            dial_ms=sum(t.dial_ms for t in heard) / reached if reached else None,
            first_byte_ms=sum(t.first_byte_ms for t in heard) / first_bytes if first_bytes else None,
            target_failures=sum(t.target_failures for t in tallies),
            client_failures=sum(t.client_failures for t in tallies),
            in_flight=in_flight,
        )


NOTHING = Seen()


def _follows(old: Counts, new: Counts) -> bool:
    """Whether no count fell."""
    return (
        new.reached >= old.reached
        and new.node_failures >= old.node_failures
        and new.target_failures >= old.target_failures
        and new.client_failures >= old.client_failures
        and new.dial_ms >= old.dial_ms
        and new.first_bytes >= old.first_bytes
        and new.first_byte_ms >= old.first_byte_ms
        and new.turned_away >= old.turned_away
    )


def _lower_median(weighed: Sequence[tuple[float, float]]) -> float | None:
    """The weighted median of (value, weight), the lower one where two are in the middle; None of none."""
    half = sum(weight for _, weight in weighed) / 2
    for value, weight in sorted(weighed):
        half -= weight
        if half <= 1e-9:
            return value
    return None

"""What the scorer remembers of a fleet, and the scores that follow from one reading of it. Pure: times come in.

A node through which connections are made and never answered, unlike through its neighbours, is mute. It stays so for
30 s, longer each time (health.outliers), or until something is answered: while it is left out nothing would show.

A collector that is gone says nothing about its nodes: they keep their last score. While it lives, a node without a
sample counts as unreachable after three looks in a row. What cannot be true is counted and has no other effect: it is
as if nobody had measured.
"""

from collections import Counter
from collections.abc import Mapping
from statistics import median

from health import score
from health.evidence import Evidence
from health.model import Node, NodeKind, NodeStatus, Protocol, Sample, Score
from health.outliers import Absence, Member, Outliers
from health.registry.reports import Told

SKEW_S = 86_400.0  # clocks that differ by a time zone are common, and an error of a day still tells samples apart
ANSWERS_OF = 20.0  # dials
ANSWERED_BY_OTHERS = 0.5


class Book:
    """The fleet as the scorer knows it. `now` is monotonic seconds, `at` Unix seconds."""

    def __init__(self) -> None:
        self._states: dict[str, score.State] = {}
        self._scores: dict[str, Score] = {}
        self._measured: dict[str, float | None] = {}
        self._missing: dict[str, int] = {}
        self._mute: dict[str, Absence] = {}
        self._outliers = Outliers()
        self._evidence = Evidence()
        self._ignored: Counter[tuple[str, str]] = Counter()
        self.panic: dict[str, bool] = {}
        """By country: so many of its nodes are in a bad way that not all can be left out."""

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._states

    @property
    def scores(self) -> list[Score]:
        """The last score of every node that has one."""
        return list(self._scores.values())

    @property
    def ignored(self) -> Mapping[tuple[str, str], int]:
        """What was told and had no effect, so far: how often, by what it was and why."""
        return self._ignored + Counter({("report", why): n for why, n in self._evidence.ignored.items()})

    def begin(self, node_id: str, stored: Score | None, now: float) -> None:
        """A node not seen before: goes on from its stored score, if there is one."""
        self._states[node_id] = score.State(at=now)
        if stored is not None:
            self._states[node_id] = score.restore(stored, now)
            self._scores[node_id] = stored
            self._outliers.restore(node_id, stored.ejected, now)
            if stored.inputs.get("flow") == score.MUTE:
                self._mute.setdefault(node_id, Absence()).begin(now)

    def look(self, nodes: Mapping[str, Node], told: Told, now: float, at: float) -> None:
        """Take one reading in. `nodes` are all that are to have a score; each was begun."""
        self._keep(nodes)
        self._evidence.take(told.reports, nodes, now)
        self._ignored["report", "unreadable"] += told.unreadable_reports
        self._ignored["sample", "unreadable"] += len(told.unreadable_samples)
        self._listen(nodes, now)
        for node_id, node in nodes.items():
            sample = self._sample(node, told, at)
            if sample is not None:
                self._take(node_id, sample, now)
        self._leave_out(nodes, now)

    def _keep(self, nodes: Mapping[str, Node]) -> None:
        for node_id in self._states.keys() - nodes.keys():
            del self._states[node_id]
            for about in (self._scores, self._missing, self._measured, self._mute):
                about.pop(node_id, None)
        self._outliers.keep(nodes)

    def _sample(self, node: Node, told: Told, at: float) -> Sample | None:
        """What is to be judged of a node now, None where nothing new is known."""
        node_id, sample = node.id, told.samples.get(node.id)
        if sample is not None:
            self._missing.pop(node_id, None)
            return self._believed(node, sample, at)
        if node.kind is NodeKind.DIRECT:
            return score.direct_sample(node_id, at)
        if node.kind is NodeKind.UPSTREAM:
            return score.upstream_sample(node_id, at)
        if node.machine not in told.collectors or node_id in told.unreadable_samples:
            self._missing.pop(node_id, None)
            return None
        missing = self._missing[node_id] = self._missing.get(node_id, 0) + 1
        return score.unreachable_sample(node_id, at) if missing >= score.FALL else None

    def _believed(self, node: Node, sample: Sample, at: float) -> Sample | None:
        last = self._scores.get(node.id)
        if sample.node != node.id:
            self._ignored["sample", "unknown_node"] += 1
        elif abs(sample.at - at) > SKEW_S:
            self._ignored["sample", "time"] += 1
        elif last is None or last.at != sample.at:
            return sample if node.protocol is Protocol.WIREGUARD else score.without_handshake(sample)
        return None

    def _take(self, node_id: str, sample: Sample, now: float) -> None:
        seen = self._evidence.seen(node_id)
        mute = node_id in self._mute and now < self._mute[node_id].until
        self._states[node_id], self._scores[node_id] = score.judge(self._states[node_id], sample, now, seen, mute=mute)
        by_agent = sample.probe_ms is not None or sample.connect_ms is not None
        self._measured[node_id] = score.measured_ms(sample, seen) if by_agent else None

    def _listen(self, nodes: Mapping[str, Node], now: float) -> None:
        """Which nodes are mute from now on, and which no longer."""
        for node_id, absence in self._mute.items():
            if self._evidence.seen(node_id).answered:
                absence.until = min(absence.until, now)
        for node_id in self._unanswered(nodes):
            self._mute.setdefault(node_id, Absence()).begin(now)

    def _unanswered(self, nodes: Mapping[str, Node]) -> set[str]:
        """Nodes through which connections were made and never answered, while their neighbours' were."""
        pools: dict[str, dict[str, float]] = {}
        for node_id, node in nodes.items():
            seen = self._evidence.seen(node_id)
            if seen.answered is not None and seen.dials >= ANSWERS_OF:
                pools.setdefault(node.country, {})[node_id] = seen.answered
        return {
            node_id
            for pool in pools.values()
            for node_id, answered in pool.items()
            if answered == 0
            and len(pool) > 1
            and median(other for name, other in pool.items() if name != node_id) >= ANSWERED_BY_OTHERS
        }

    def _leave_out(self, nodes: Mapping[str, Node], now: float) -> None:
        pools: dict[str, list[Member]] = {}
        for node_id, node in nodes.items():
            found = self._scores.get(node_id)
            if found is not None and node.status is NodeStatus.SERVING and found.terms.get("up"):
                pools.setdefault(node.country, []).append(self._member(node_id, found))
        verdicts = {country: self._outliers.judge(pool, now) for country, pool in pools.items()}
        self.panic = {country: verdict.panic for country, verdict in verdicts.items()}
        out = {node: why for verdict in verdicts.values() for node, why in verdict.out.items()}
        for node_id, found in self._scores.items():
            if found.ejected != out.get(node_id, ""):
                self._scores[node_id] = found.model_copy(update={"ejected": out.get(node_id, "")})

    def _member(self, node_id: str, found: Score) -> Member:
        seen = self._evidence.seen(node_id)
        return Member(node_id, found.healthy, found.value, self._measured.get(node_id), seen.failures, seen.dials)

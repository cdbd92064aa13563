"""The live picture a worker chooses from: the last snapshot, and a link to every node of this machine.

Knows nothing of clients and sockets. What there is to choose from is `roster`'s to say, which of these is taken
`balance`'s, and where a session is `sessions`'.
"""

import asyncio
import random
import time
from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

import structlog

from gateway import balance
from gateway.links import DirectLink, Link, VpnLink
from gateway.ourselves import Ourselves
from gateway.roster import Choice, Roster, Seat
from gateway.sessions import DEFAULT_TTL_S, Pin, Proposal, Sessions
from gateway.stock import Budget
from gateway.upstream import Routes
from gateway.want import Want
from gateway.wire.base import WireError
from health.model import Node, NodeKind, NodeStatus, Record
from health.reasons import Reason
from health.registry import Scored, Snapshot

log = structlog.get_logger()

STOCKED = 512
_LINKED = (NodeStatus.VERIFYING, NodeStatus.SERVING, NodeStatus.DRAINING)
R = TypeVar("R", bound=Record)


class Fleet:
    """The snapshot and the links. Kept fresh by `following`; choosing is synchronous and cheap."""

    def __init__(
        self,
        machine: str,
        rng: random.Random | None = None,
        routes: Routes | None = None,
        stocks: Budget | None = None,
        ourselves: Ourselves | None = None,
    ) -> None:
        self._routes = routes or Routes(machine, {}, None)
        self._stocks = stocks or Budget(STOCKED)
        self._ourselves = ourselves
        self.snapshot = Snapshot(epoch="")
        self.links: dict[str, Link] = {}
        self.sessions = Sessions()
        self.refreshed_at: float | None = None
        self.roster = Roster(rng or random.Random())  # noqa: S311 - spreads load, keeps no secret
        self._retries = balance.RetryBudget()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """True once a complete snapshot has been read."""
        return self.refreshed_at is not None

    @property
    def age(self) -> float:
        """Seconds since the snapshot was read; infinite before the first."""
        return float("inf") if self.refreshed_at is None else time.monotonic() - self.refreshed_at

    @property
    def in_flight(self) -> int:
        """Connections through all nodes, dials included."""
        return sum(link.in_flight for link in self.links.values())

    @property
    def usable(self) -> int:
        """How many nodes can be chosen now."""
        return sum(seat.ready for seat in self.roster.seats.values())

    def update(self, snapshot: Snapshot) -> None:
        """Take a full read. One without an epoch (an empty Redis) changes nothing.

        What did not change stays the same object, so that others can compare by identity.
        """
        if not snapshot.epoch:
            return
        old = self.snapshot
        nodes, pools = _kept(old.nodes, snapshot.nodes), _kept(old.pools, snapshot.pools)
        # Scores expire when no scorer runs; a node keeps the last one it had.
        scores = _kept(old.scores, {i: s for i, s in (old.scores | snapshot.scores).items() if i in nodes})
        users = _kept(old.users, snapshot.users)
        self.snapshot = Snapshot(snapshot.epoch, nodes, scores, pools, users, snapshot.sequence)
        self.refreshed_at = time.monotonic()
        if nodes is not old.nodes:
            self._relink()
            self.roster.take_nodes(nodes, self.links)
        if scores is not old.scores or nodes is not old.nodes:
            self.roster.take_scores(scores, self.refreshed_at)
        if pools is not old.pools:
            self.roster.take_pools(pools)
        self.touched()
        self._judge()

    def touched(self) -> None:
        """Look again at what is ready. Cheap; links call it when their state changed."""
        self.roster.look(time.monotonic())

    def choosable(self, node: Node) -> bool:
        """The node is not hard-down now."""
        return self.roster.serves(node.id)

    def choose(self, want: Want, user: str, allowed: Collection[str] = (), tried: Collection[str] = ()) -> Choice:
        """The best node for `want` that was not `tried`.

        `user` owns the session: the name that was proved, empty where none was. Raises WireError: NO_NODE, and
        BAD_WANT or COUNTRY_FORBIDDEN where a strict session is elsewhere than the want and `allowed` say.
        """
        now = time.monotonic()
        if want.session is not None:
            return self._keep_session(want, (user, want.session), allowed, tried, now)
        seat = self.roster.choose(want, allowed, tried, now)
        if seat is None:
            raise self._missing(want)
        return seat.choice

    def others(self, want: Want, allowed: Collection[str], tried: Collection[str]) -> bool:
        """Whether a node that was not `tried` could take over."""
        may_move = want.session is None or not want.strict
        return may_move and bool(self.roster.group(want, allowed, time.monotonic()).left(tried))

    def knows_session(self, want: Want, user: str) -> bool:
        """False where Redis should be asked (`recall_session`) before choosing."""
        if want.session is None:
            return True
        now = time.monotonic()
        if not self.sessions.reachable(now):
            return True
        pin = self.sessions.find((user, want.session), now)
        return pin is not None and (want.strict or self.roster.serves(pin.node))

    async def recall_session(self, want: Want, user: str, allowed: Collection[str] = ()) -> None:
        """Agree with the other gateways on where a session is. Takes 50 ms at most, never raises."""
        if want.session is None:
            return
        now, key = time.monotonic(), (user, want.session)
        node = balance.pick_sticky(":".join(key), self.roster.group(want, allowed, now).best)
        if node is None:
            return
        pin = self.sessions.find(key, now)
        replaces = pin.node if pin else ""
        await self.sessions.agree(Proposal(key, node.id, want.ttl or DEFAULT_TTL_S, replaces, want.strict))

    def failed(self, node_id: str) -> None:
        """A dial failed by the fault of this node. One that is hard-down already is not judged by that."""
        seat = self.roster.seats.get(node_id)
        if seat is not None and seat.ready and seat.failed(time.monotonic()):
            self.roster.expire()
            log.warning("node ejected", node=node_id, why="dials failed in a row", seconds=_left(seat))

    def may_retry(self, active: int) -> bool:
        """True if one more dial may go on to a further node, `active` connections being open; then call `retried`."""
        return self._retries.take(active)

    def retried(self) -> None:
        """A dial that `may_retry` let go on has ended."""
        self._retries.give_back()

    def rescore(self, told: Scored) -> bool:
        """Take scores as they are told. False where changes before them were missed: read everything then."""
        old = self.snapshot
        if not old.epoch or told.sequence > old.sequence + 1:
            return False
        if told.sequence <= old.sequence:
            return True  # read already
        fresh = {score.node: score for score in told.scores if score.node in old.nodes}
        self.snapshot = replace(old, scores=_kept(old.scores, old.scores | fresh), sequence=told.sequence)
        self.confirm()
        self.roster.take_scores(self.snapshot.scores, time.monotonic())
        self._judge()
        return True

    def confirm(self) -> None:
        """The snapshot is that of this moment."""
        self.refreshed_at = time.monotonic()

    async def close(self) -> None:
        links, self.links = list(self.links.values()), {}
        self.roster.take_nodes({}, {})
        await asyncio.gather(self.sessions.close(), *(link.close() for link in links), *self._closing)

    def open_link(self, node: Node) -> Link | None:
        """A new link to `node`, None for a kind that has none."""
        through = self._routes.link(node)
        if through is not None:
            return through
        if node.kind is NodeKind.DIRECT:
            return DirectLink(node.id, self._ourselves)
        if node.kind is NodeKind.VPN:
            return VpnLink(node.id, node.agent, self._stocks, on_change=self.touched)
        return None

    def _judge(self) -> None:
        for seat in self.roster.judge(time.monotonic()):
            log.warning("node ejected", node=seat.id, why="dials fail more than elsewhere", seconds=_left(seat))

    def _relink(self) -> None:
        wanted = {n.id: n for n in self.snapshot.nodes.values() if self._routes.reaches(n) and n.status in _LINKED}
        for node_id in self.links.keys() - wanted.keys():
            task = asyncio.create_task(self.links.pop(node_id).close(), name=f"close {node_id}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for node_id in wanted.keys() - self.links.keys():
            link = self.open_link(wanted[node_id])
            if link is not None:
                self.links[node_id] = link

    def _keep_session(
        self, want: Want, key: tuple[str, str], allowed: Collection[str], tried: Collection[str], now: float
    ) -> Choice:
        """Where the session is; a new place where it has none, or may leave the one that does not serve it.

        What the connection asks for counts more than where its session is: asked for in another country (or city, or
        node), a soft session moves there, a strict one is refused. It stays in a fallback while that node lives.
        """
        ttl = want.ttl or DEFAULT_TTL_S
        pin = self.sessions.find(key, now)
        if pin is not None:
            seat = self.roster.seats.get(pin.node)
            if seat is not None and pin.node not in tried and self.roster.suits(seat, want, allowed):
                moved = self.sessions.use(key, pin, ttl, now, strict=want.strict)
                return Choice(seat.node, seat.link, moved) if moved else seat.choice
            if want.strict:
                raise self._stuck(pin, allowed, tried)
        seat = self._sticky(key, want, allowed, tried, now)
        if seat is None:
            raise self._missing(want)
        moved = "" if pin is None else pin.origin if pin.node in tried else pin.node
        self.sessions.place(key, seat.id, ttl, now, strict=want.strict, origin=moved)
        return Choice(seat.node, seat.link, moved)

    def _sticky(
        self, key: tuple[str, str], want: Want, allowed: Collection[str], tried: Collection[str], now: float
    ) -> Seat | None:
        self.roster.look(now)
        return balance.pick_sticky(":".join(key), self.roster.group(want, allowed, now).left(tried))

    def _stuck(self, pin: Pin, allowed: Collection[str], tried: Collection[str]) -> WireError:
        """Why a strict session cannot go on."""
        if pin.node in tried or not self.roster.serves(pin.node):
            return WireError(Reason.NO_NODE, f"the node {pin.node} of this strict session is not serving")
        node = self.roster.seats[pin.node].node
        where = f"this strict session is on {node.id} in {' '.join(filter(None, (node.city, node.country)))}"
        if allowed and node.country not in allowed:
            return WireError(Reason.COUNTRY_FORBIDDEN, f"{where}, which this user may not use")
        return WireError(Reason.BAD_WANT, f"{where}: ask for that, or name another session")

    def _missing(self, want: Want) -> WireError:
        if want.node:
            return WireError(Reason.NO_NODE, f"the node {want.node} is not serving")
        place = want.country or "any country"
        if want.city:
            place = f"{want.city}, {place}"
        return WireError(Reason.NO_NODE, f"no exit is serving in {place} now")


def _kept(old: dict[str, R], new: dict[str, R]) -> dict[str, R]:
    """`new`, with the old object for each record that did not change; `old` itself where none did."""
    kept, same = {}, len(new) == len(old)
    for name, record in new.items():
        before = old.get(name)
        if before is not None and (before is record or before == record):
            kept[name] = before
        else:
            kept[name], same = record, False
    return old if same else kept


def _left(seat: Seat) -> float:
    return round(seat.out_until - time.monotonic())

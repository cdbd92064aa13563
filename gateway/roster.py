"""The nodes as a worker chooses from them: a seat for each that has a link, and lists of seats per kind of want.

What can be used is one predicate (`Seat.ready`). A list is made once per change: of the records, of a link, of who is
softly out. Knows no clock (`now` is monotonic seconds), no session and no Redis; which of a list is taken is
`balance`'s to decide.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from gateway import balance
from gateway.links import Link
from gateway.upstream import UpstreamLink
from gateway.want import Want
from health.model import Node, NodeKind, NodeStatus, Pool, Score, Strategy

GROUPS_KEPT = 4096


class Choice(NamedTuple):
    """Where a connection goes. `moved` is the node its session was on before, where it had to leave that."""

    node: Node
    link: Link
    moved: str = ""


@dataclass(slots=True, eq=False, kw_only=True)
class Seat(balance.Candidate):
    """A node with its link, for as long as the link lives.

    `proved` is the tunnel that admission was proved for (None where it means nothing: no tunnel, or one that another
    gateway watches). `used`: it was ready when last looked at; `seen`: it was ready once, so that being ready again is
    a recovery.
    """

    node: Node
    link: Link
    choice: Choice = field(init=False)
    serving: bool = field(init=False)
    proved: int | None = field(init=False)
    used: bool = False
    seen: bool = False

    @property
    def ready(self) -> bool:
        """Not hard-down: admission is proved for the very tunnel that is up now."""
        link = self.link
        return self.serving and link.usable and (self.proved is None or link.generation == self.proved)

    def sit(self, node: Node) -> None:
        """Take what the record says now."""
        self.node, self.choice = node, Choice(node, self.link)
        self.serving = node.status is NodeStatus.SERVING
        watched = node.kind is NodeKind.VPN and not isinstance(self.link, UpstreamLink)
        self.proved = node.generation if watched else None

    def fits(self, want: Want, allowed: Collection[str]) -> bool:
        """It is ready, and what `want` says of node and city; the country is one of `allowed` (empty: any)."""
        return (
            (not allowed or self.node.country in allowed)
            and (want.node is None or self.id == want.node)
            and (want.city is None or _slug(self.node.city) == _slug(want.city))
            and self.ready
        )


Group = balance.Group[Seat]


class Roster:
    """All seats, and the lists made of them."""

    def __init__(self, rng: balance.Rng) -> None:
        self._rng = rng
        self.seats: dict[str, Seat] = {}
        self._pools: Mapping[str, Pool] = {}
        self._countries: dict[str, list[Seat]] = {}
        self._groups: dict[tuple[str | None, str | None, str | None, tuple[str, ...]], Group] = {}
        self._judged_at = -inf

    def group(self, want: Want, allowed: Collection[str], now: float) -> Group:
        """What to choose from for `want`: nodes of the wanted country, else of its first fallback that has any."""
        key = (want.country, want.city, want.node, tuple(allowed))
        group = self._groups.get(key)
        if group is not None and now < group.until:
            return group
        self.look(now)  # so that each seat's `used` is what the new list goes by
        made = self._grouped(want, self._fitting(want, allowed), now, group.turn if group else 0)
        if made.best:  # the others cost little, and clients can ask for endlessly many
            if len(self._groups) >= GROUPS_KEPT:
                self._groups.clear()
            self._groups[key] = made
        return made

    def choose(self, want: Want, allowed: Collection[str], tried: Collection[str], now: float) -> Seat | None:
        """The best node for `want` that was not `tried`, None where there is none."""
        seat = self.group(want, allowed, now).choose(self._rng, now, tried)
        if seat is None or not seat.ready:  # a link may have changed without a word
            self.look(now)
            seat = self.group(want, allowed, now).choose(self._rng, now, tried)
        return seat

    def worked(self, node_id: str, seconds: float) -> None:
        """A dial through this node reached its target in `seconds`, or the target refused it."""
        seat = self.seats.get(node_id)
        if seat is not None:
            seat.worked(seconds)

    def serves(self, node_id: str) -> bool:
        """The node is there and not hard-down."""
        seat = self.seats.get(node_id)
        return seat is not None and seat.ready

    def suits(self, seat: Seat, want: Want, allowed: Collection[str]) -> bool:
        """A session may stay there: in the wanted country or any of its fallbacks."""
        in_country = want.country is None or seat.node.country in self._accepted(want.country)
        return in_country and seat.fits(want, allowed)

    def look(self, now: float) -> None:
        """Look again at what is ready. Cheap."""
        for seat in self.seats.values():
            if seat.ready is seat.used:
                continue
            seat.used = not seat.used
            if seat.used and seat.seen:
                seat.recovered(now)
            seat.seen = True
            self.expire()

    def panic(self, now: float) -> dict[str, bool]:
        """By country: more of its nodes should be softly out than may be."""
        ready = {country: [seat for seat in pool if seat.ready] for country, pool in self._countries.items()}
        return {country: balance.in_panic(pool, now) for country, pool in ready.items()}

    def expire(self) -> None:
        """Make every list anew when it is next asked for."""
        for group in self._groups.values():
            group.until = -inf

    def take_pools(self, pools: Mapping[str, Pool]) -> None:
        """The pools as they are now."""
        self._pools = pools
        self.expire()

    def take_nodes(self, nodes: Mapping[str, Node], links: Mapping[str, Link]) -> None:
        """One seat for each link, the old one where the link is the old one."""
        old, self.seats, self._countries = self.seats, {}, {}
        for node_id, link in links.items():
            node, seat = nodes[node_id], old.get(node_id)
            if seat is None or seat.link is not link:
                seat = Seat(id=node_id, carrier=link.carried, node=node, link=link)
            seat.sit(node)
            self.seats[node_id] = seat
            self._countries.setdefault(node.country, []).append(seat)
        self.expire()

    def take_scores(self, scores: Mapping[str, Score], now: float) -> None:
        """The scores as they are now; the lists change only with who is healthy."""
        for seat in self.seats.values():
            score = scores.get(seat.id)
            if score is None:
                continue
            seat.score, seat.latency_ms = score.value, score.latency_ms
            healthy = score.healthy and not score.ejected
            if healthy is not seat.healthy:
                seat.healthy = healthy
                if seat.healthy:
                    seat.recovered(now)
                self.expire()

    def judge(self, now: float) -> list[Seat]:
        """Eject and return those that fail more than their neighbours: once in each window of statistics."""
        if now - self._judged_at < balance.WINDOW_S:
            return []
        self._judged_at = now
        ejected = [seat for pool in self._countries.values() for seat in balance.judge(pool, now)]
        if ejected:
            self.expire()
        return ejected

    def _grouped(self, want: Want, fitting: list[Seat], now: float, turn: int) -> Group:
        out: set[Seat] = set()
        until = inf
        for country in {seat.node.country for seat in fitting}:
            pool = [seat for seat in self._countries[country] if seat.ready]
            out.update(balance.left_out(pool, now))
            until = min([until, *(seat.out_until for seat in pool if now < seat.out_until)])
        return Group(fitting, out, self._strategy(want, fitting), until=until, turn=turn)

    def _fitting(self, want: Want, allowed: Collection[str]) -> list[Seat]:
        pools: Iterable[Iterable[Seat]] = [self.seats.values()]
        if want.country is not None:
            pools = (self._countries.get(country, ()) for country in self._accepted(want.country))
        for pool in pools:
            found = [seat for seat in pool if seat.fits(want, allowed)]
            if found:
                return found
        return []

    def _accepted(self, country: str) -> tuple[str, ...]:
        pool = self._pools.get(country)
        return (country, *pool.fallback) if pool else (country,)

    def _strategy(self, want: Want, fitting: list[Seat]) -> Strategy:
        pool = self._pools.get(fitting[0].node.country) if want.country and fitting else None
        return pool.strategy if pool else Strategy.HEALTH_SCORE


def _slug(city: str) -> str:
    return "".join(c for c in city.lower() if c.isalnum())

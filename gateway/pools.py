"""The live picture a worker chooses from: the last snapshot, and a link to every node of this machine.

Knows nothing of clients and sockets; who may be chosen is one predicate (`Fleet.choosable`).
"""

import asyncio
import contextlib
import random
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import structlog

from gateway import balance
from gateway.links import DirectLink, Link, VpnLink
from gateway.want import Want
from gateway.wire.base import WireError
from health.model import Node, NodeKind, NodeStatus, Strategy
from health.reasons import Reason
from health.registry import Registry, RegistryError, Snapshot

log = structlog.get_logger()

REFRESH_S = 1.0
DEFAULT_SESSION_TTL_S = 600.0
SESSIONS_KEPT = 100_000
_LINKED = (NodeStatus.VERIFYING, NodeStatus.SERVING, NodeStatus.DRAINING)


@dataclass(slots=True)
class _Pin:
    node: str
    expires: float


class Fleet:
    """The snapshot and the links. Updated by `follow`; everything else is synchronous."""

    def __init__(self, machine: str, rng: random.Random | None = None) -> None:
        self._machine = machine
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self.snapshot = Snapshot(epoch="")
        self.links: dict[str, Link] = {}
        self.refreshed_at: float | None = None
        self._turns: dict[str, int] = {}
        self._pins: OrderedDict[str, _Pin] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """True once a complete snapshot has been read."""
        return self.refreshed_at is not None

    @property
    def age(self) -> float:
        """Seconds since the snapshot was read; infinite before the first."""
        return float("inf") if self.refreshed_at is None else time.monotonic() - self.refreshed_at

    def update(self, snapshot: Snapshot) -> None:
        """Take a full read. One without an epoch (an empty Redis) changes nothing."""
        if not snapshot.epoch:
            return
        # Scores expire when no scorer runs; a node keeps the last one it had.
        kept = {i: s for i, s in self.snapshot.scores.items() if i in snapshot.nodes}
        self.snapshot = Snapshot(snapshot.epoch, snapshot.nodes, kept | snapshot.scores, snapshot.pools, snapshot.users)
        self.refreshed_at = time.monotonic()
        self._relink()

    def choosable(self, node: Node) -> bool:
        """Admission is proved for the very tunnel that is up now."""
        link = self.links.get(node.id)
        return (
            node.status is NodeStatus.SERVING
            and link is not None
            and link.usable
            and (node.kind is not NodeKind.VPN or link.generation == node.generation)
        )

    def choose(
        self, want: Want, user: str, allowed: Collection[str] = (), tried: Collection[str] = ()
    ) -> tuple[Node, Link]:
        """The best node for `want` that was not `tried`.

        Raises WireError(NO_NODE) with the reason in plain words.
        """
        nodes = self._wanted(want, allowed, tried)
        if not nodes:
            raise WireError(Reason.NO_NODE, self._missing(want))
        node = self._pinned(want, user, nodes) if want.session else self._balanced(want, nodes)
        return node, self.links[node.id]

    async def follow(self, registry: Registry) -> None:
        """Keep the snapshot fresh, for ever: read on every event, and once a second."""
        changed = asyncio.Event()
        listener = asyncio.create_task(_listen(registry, changed), name="registry events")
        lost = False
        try:
            while True:
                changed.clear()
                try:
                    self.update(await registry.snapshot())
                    if lost:
                        log.info("Redis is back")
                    lost = False
                except RegistryError as error:
                    if not lost:
                        log.warning("Redis is gone; going on with the last snapshot", reason=str(error))
                    lost = True
                try:
                    async with asyncio.timeout(REFRESH_S):
                        await changed.wait()
                    await asyncio.sleep(0.05)  # one read for a burst of events
                except TimeoutError:
                    pass
        finally:
            listener.cancel()

    async def close(self) -> None:
        links, self.links = list(self.links.values()), {}
        await asyncio.gather(*(link.close() for link in links), *self._closing)

    def _relink(self) -> None:
        wanted = {n.id: n for n in self.snapshot.nodes.values() if n.machine == self._machine and n.status in _LINKED}
        for node_id in self.links.keys() - wanted.keys():
            task = asyncio.create_task(self.links.pop(node_id).close(), name=f"close {node_id}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for node_id in wanted.keys() - self.links.keys():
            node = wanted[node_id]
            if node.kind is NodeKind.DIRECT:
                self.links[node_id] = DirectLink(node_id)
            elif node.kind is NodeKind.VPN:
                self.links[node_id] = VpnLink(node_id, node.agent)

    def _wanted(self, want: Want, allowed: Collection[str], tried: Collection[str]) -> list[Node]:
        countries = [want.country] if want.country else []
        if want.country and want.country in self.snapshot.pools:
            countries += self.snapshot.pools[want.country].fallback
        usable = [
            node
            for node in self.snapshot.nodes.values()
            if node.id not in tried
            and (not allowed or node.country in allowed)
            and (want.node is None or node.id == want.node)
            and (want.city is None or _slug(node.city) == _slug(want.city))
            and self.choosable(node)
        ]
        if not countries:
            return usable
        for country in countries:
            found = [node for node in usable if node.country == country]
            if found:
                return found
        return []

    def _balanced(self, want: Want, nodes: list[Node]) -> Node:
        country = nodes[0].country if want.country else ""
        pool = self.snapshot.pools.get(country)
        turn = self._turns[country] = self._turns.get(country, -1) + 1
        strategy = pool.strategy if pool else Strategy.HEALTH_SCORE
        chosen = balance.choose(self._candidates(nodes), strategy, rng=self._rng, counter=turn)
        return self._node(chosen)

    def _pinned(self, want: Want, user: str, nodes: list[Node]) -> Node:
        now = time.monotonic()
        key = f"{user}\0{want.session}"
        pin = self._pins.pop(key, None)
        chosen = next((node for node in nodes if pin and pin.expires > now and node.id == pin.node), None)
        if chosen is None:
            if pin is not None and pin.expires > now and want.strict:
                self._pins[key] = pin
                raise WireError(Reason.NO_NODE, f"the node {pin.node} of this strict session is not serving")
            candidates = self._candidates(nodes)
            healthy = [candidate for candidate in candidates if candidate.healthy]
            chosen = self._node(balance.pick_sticky(key, healthy or candidates))
        self._pins[key] = _Pin(chosen.id, now + (want.ttl or DEFAULT_SESSION_TTL_S))
        if len(self._pins) > SESSIONS_KEPT:
            self._pins.popitem(last=False)
        return chosen

    def _node(self, chosen: balance.Candidate | None) -> Node:
        assert chosen is not None  # noqa: S101 - callers pass at least one candidate
        return self.snapshot.nodes[chosen.node]

    def _candidates(self, nodes: list[Node]) -> list[balance.Candidate]:
        scores = self.snapshot.scores
        found = []
        for node in nodes:
            score = scores.get(node.id)
            found.append(
                balance.Candidate(
                    node=node.id,
                    score=score.value if score else 50.0,
                    healthy=score.healthy if score else True,
                    in_flight=self.links[node.id].in_flight,
                    latency_ms=score.latency_ms if score else None,
                )
            )
        return found

    def _missing(self, want: Want) -> str:
        if want.node:
            return f"the node {want.node} is not serving"
        place = want.country or "any country"
        if want.city:
            place = f"{want.city}, {place}"
        return f"no exit is serving in {place} now"


def _slug(city: str) -> str:
    return "".join(c for c in city.lower() if c.isalnum())


async def _listen(registry: Registry, changed: asyncio.Event) -> None:
    while True:
        try:
            async with contextlib.aclosing(registry.events()) as events:
                async for _event in events:
                    changed.set()
        except RegistryError:
            await asyncio.sleep(REFRESH_S / 2)

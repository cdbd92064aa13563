"""Lets pools follow their load: asks the gateways now and then, and writes what `autoscale` advises."""

import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from control.autoscale import Load, Past, advise
from control.leadership import Check, alone
from control.load import Carried
from control.troubles import Troubles
from health.model import Node, Pool
from health.registry import Registry, Snapshot, StaleVersionError

log = structlog.get_logger()

UNSEEN_S = 60.0
"""After so long without a look (another led, or Redis was away) what the load was meanwhile is not known."""


class Scaling:
    """`read` asks all gateways; at most once in `interval` seconds, and only where a pool follows its load."""

    def __init__(
        self,
        registry: Registry,
        troubles: Troubles,
        read: Callable[[], Awaitable[Carried]],
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._troubles = troubles
        self._read = read
        self._interval = interval
        self._clock = clock
        self._due = 0.0
        self._past: dict[str, Past] = {}

    async def look(self, snapshot: Snapshot, check: Check = alone) -> bool:
        """Scale what needs it; True where a pool was changed. Raises RegistryError, and LostLeadError by `check`."""
        pools = {country: pool for country, pool in snapshot.pools.items() if pool.target_connections is not None}
        now = self._clock()
        if not pools:
            self._past = {}
            await self._troubles.note("load", "")
            return False
        if now < self._due:
            return False
        if now - self._due > UNSEEN_S:
            self._past = {}
        self._due = now + self._interval
        carried = await self._read()
        await check()
        await self._troubles.note("load", carried.trouble)
        changed = False
        for country, pool in pools.items():
            load = Load(_through(country, snapshot.nodes, carried), not carried.trouble)
            desired, self._past[country] = advise(pool, load, self._past.get(country, Past()), now)
            if desired != pool.desired:
                changed |= await self._scale(pool, desired, load)
        self._past = {country: past for country, past in self._past.items() if country in pools}
        return changed

    async def _scale(self, pool: Pool, desired: int, load: Load) -> bool:
        try:
            await self._registry.put_pool(pool.model_copy(update={"desired": desired}))
        except StaleVersionError:
            return False  # an operator was faster; the next look sees what he wants
        reason = (
            f"{load.connections} connections at {pool.target_connections} a node: {pool.desired} -> {desired} nodes"
        )
        log.info("pool_scaled", country=pool.country, desired=desired, was=pool.desired, reason=reason)
        await self._registry.publish("scaled", pool.country, desired=desired, was=pool.desired, reason=reason)
        return True


def _through(country: str, nodes: Mapping[str, Node], carried: Carried) -> int:
    return sum(count for node, count in carried.by_node.items() if node in nodes and nodes[node].country == country)

"""Tells the scorer once a second how a worker's dials went, node by node.

Off the path of every connection: it reads counts that are kept anyway. Lost where Redis is gone; the next report
counts what the lost ones did.
"""

import asyncio
import random
import secrets
from collections import Counter
from math import inf

from gateway.metrics import Metrics
from gateway.pools import Fleet
from gateway.roster import Seat
from health.reasons import WIRE, Fault, Reason
from health.registry import Registry, RegistryError
from health.report import MOST_NODES, Counts, Report

INTERVAL_S = 1.0
IDLE_REPORTS = 10  # a node that nothing happened to for so long is left out


class Reporter:
    """One worker's. `gateway` is the name that all workers of its gateway share."""

    def __init__(self, registry: Registry, fleet: Fleet, numbers: Metrics, gateway: str) -> None:
        self._registry = registry
        self._fleet = fleet
        self._numbers = numbers
        self._gateway = gateway
        self._worker = secrets.token_hex(8)
        self._last: dict[str, Counts] = {}
        self._idle: Counter[str] = Counter()

    async def run(self) -> None:
        """Report, for ever."""
        await asyncio.sleep(random.uniform(0, INTERVAL_S))  # noqa: S311 - spreads the workers, keeps no secret
        while True:
            try:
                await self._registry.reports.put(self.report())
            except RegistryError:
                pass  # whoever follows the snapshot says so
            await asyncio.sleep(INTERVAL_S)

    async def close(self) -> None:
        """This worker tells nothing more; call it when `run` was cancelled."""
        try:
            await self._registry.reports.delete(self._worker)
        except RegistryError:
            pass

    def report(self) -> Report:
        """The counts of the nodes that were used lately, 1,000 at most: those used last come first."""
        spoilt = self._spoilt()
        counted = {seat.id: self._counts(seat, spoilt) for seat in self._fleet.roster.seats.values()}
        for node in self._idle.keys() - counted.keys():
            del self._idle[node]
        for node, counts in counted.items():
            same = counts == self._last.get(node, Counts()) and not counts.in_flight
            self._idle[node] = self._idle[node] + 1 if same else 0
        self._last = counted
        used = sorted((idle, node) for node, idle in self._idle.items() if idle < IDLE_REPORTS)
        nodes = {node: counted[node] for _, node in used[:MOST_NODES]}
        return Report(worker=self._worker, gateway=self._gateway, nodes=nodes)

    def _spoilt(self) -> Counter[tuple[str, Fault]]:
        """Dials that came to nothing and not by the node's fault."""
        found: Counter[tuple[str, Fault]] = Counter()
        for (_, node, reason), (count,) in self._numbers.dial_failures().items():
            found[node, WIRE[Reason(reason)].fault] += int(count)
        return found

    def _counts(self, seat: Seat, spoilt: Counter[tuple[str, Fault]]) -> Counts:
        quickest, seat.quickest_s = seat.quickest_s, inf
        first_bytes, first_byte_s = self._numbers.answers(seat.id)
        refused = self._numbers.dial_failures().get((seat.node.country, seat.id, Reason.REFUSED), [0])
        return Counts(
            reached=seat.dials - seat.failed_dials,
            node_failures=seat.failed_dials,
            target_failures=spoilt[seat.id, Fault.TARGET],
            client_failures=spoilt[seat.id, Fault.CLIENT],
            dial_ms=round(seat.dial_s * 1000, 2),
            first_bytes=first_bytes,
            first_byte_ms=round(first_byte_s * 1000, 2),
            in_flight=seat.link.in_flight,
            quickest_ms=None if quickest == inf else round(quickest * 1000, 2),
            turned_away=int(refused[0]) + self._numbers.cut(seat.id),
        )

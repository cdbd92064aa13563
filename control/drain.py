"""Tells which draining nodes nobody uses any more: no gateway has a connection through them.

A gateway goes by a picture of the fleet that is up to a second old, and its workers tell what they carry once a second:
what is read sooner than SETTLED_S after a node began to drain proves nothing. Nor does an answer of some gateways only,
or of one whose picture is so old that it may still choose the node.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from control.load import Carried
from health.model import Node, NodeStatus

SETTLED_S = 3.0
MAX_AGE_S = SETTLED_S - 1.0
INTERVAL_S = 1.0


class Drain:
    """`read` asks all gateways, at most once in INTERVAL_S. `idle`: the nodes found unused that still drain."""

    def __init__(self, read: Callable[[], Awaitable[Carried]], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._asked = float("-inf")
        self.idle: frozenset[str] = frozenset()

    def due(self, nodes: Mapping[str, Node], since: Mapping[str, float]) -> frozenset[str]:
        """The nodes worth asking about now; `since` when each has had its present status. Forgets all others."""
        draining = {node.id for node in nodes.values() if node.status is NodeStatus.DRAINING}
        self.idle &= draining
        now = self._clock()
        if now - self._asked < INTERVAL_S:
            return frozenset()
        return frozenset(i for i in draining - self.idle if now - since.get(i, now) >= SETTLED_S)

    async def ask(self, nodes: Collection[str]) -> bool:
        """Ask the gateways about `nodes`; True where one is found unused. Never raises."""
        self._asked = self._clock()
        carried = await self._read()
        proves = not carried.trouble and carried.age <= MAX_AGE_S
        unused = frozenset(node for node in nodes if proves and not carried.by_node.get(node))
        self.idle |= unused
        return bool(unused)

"""Leaves the fleet to the control of the machine that its nodes are on: looks whose they are, and says so."""

import contextlib
from collections.abc import Collection

from control.engine import Engine, EngineError
from control.machines import Stance, elsewhere, stance
from control.model import Container
from control.recovery import Keeper
from control.troubles import Troubles
from health.model import Node
from health.registry import Registry


class Standby:
    """`engine` None: runs no nodes, and so leaves none to others. Methods raise RegistryError."""

    def __init__(self, registry: Registry, keeper: Keeper, engine: Engine | None, troubles: Troubles) -> None:
        self._registry = registry
        self._keeper = keeper
        self._engine = engine
        self._troubles = troubles
        self._stance = Stance()

    @property
    def reached(self) -> frozenset[str]:
        """The machines of this control's engine."""
        return self._engine.machines if self._engine is not None else frozenset()

    @property
    def reason(self) -> str:
        """Why this control does not act, or empty; as of the last look."""
        return self._stance.reason if self._stance.stands_by else ""

    async def look(self) -> str:
        """Look now, and return `reason`. While Redis is empty the copy on disk says whose the nodes were."""
        if self._engine is None:
            return ""
        snapshot = await self._registry.snapshot()
        nodes = list(snapshot.nodes.values()) if snapshot.epoch else list((await self._keeper.load())[0].nodes)
        here: list[Container] = []
        if elsewhere(nodes, self.reached, ()):
            with contextlib.suppress(EngineError):
                here = await self._engine.containers()
        return await self.judge(nodes, here)

    async def judge(self, nodes: Collection[Node], here: Collection[Container]) -> str:
        """As `look`, by `nodes`, all that are recorded, and the engine's containers."""
        if self._engine is not None:
            self._stance = stance(nodes, self.reached, {container.node for container in here})
            await self._troubles.note("machine", self._stance.reason)
        return self.reason

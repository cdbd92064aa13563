"""What an operator may ask of the fleet. Writes wishes; the reconciler makes them true."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from control.config import ControlSettings
from control.model import ACTIVE, slot_name
from control.placement import Placement
from control.providers import NoSlotError, ProviderError, Wish
from control.replacing import drained_first, has_room, successor, traits, wish
from health.model import Node, NodeKind, NodeStatus, Pool, Protocol
from health.registry import Registry, Snapshot, StaleVersionError

ATTEMPTS = 5
MOST_SLOTS = 32
"""More than a pool of 10 and its leaving nodes ever hold."""


class FleetError(Exception):
    """A wish that cannot be granted; `reason` is a word for programs."""

    reason = "conflict"


class NotFoundError(FleetError):
    reason = "not_found"


class LimitError(FleetError):
    """Outside the pool's min and max."""

    reason = "pool_limit"


class InUseError(FleetError):
    """Something that goes only once nothing uses it."""

    reason = "in_use"


class InvalidPoolError(FleetError):
    """Values that do not go together."""

    reason = "bad_request"


class UnavailableError(FleetError):
    """Not now: no Docker Engine, or the registry is being filled."""

    reason = "unavailable"


async def _here() -> str:
    return ""


class Fleet:
    """The operator's side. `changed` is called after every wish; methods raise FleetError and RegistryError.

    `elsewhere` tells why no node may be placed on this machine, or gives an empty string.
    """

    def __init__(
        self,
        registry: Registry,
        placement: Placement,
        settings: ControlSettings,
        changed: Callable[[], None],
        wall: Callable[[], float] = time.time,
        elsewhere: Callable[[], Awaitable[str]] = _here,
    ) -> None:
        self._elsewhere = elsewhere
        self._registry = registry
        self._placement = placement
        self._settings = settings
        self._changed = changed
        self._wall = wall

    async def snapshot(self) -> Snapshot:
        """The whole registry, complete. Raises UnavailableError while it is being filled."""
        snapshot = await self._registry.snapshot()
        if not snapshot.epoch:
            raise UnavailableError("the registry is being rebuilt, try again in a few seconds")
        return snapshot

    def pool_of(self, snapshot: Snapshot, country: str) -> Pool:
        """The stored pool of `country`, or what it is without one."""
        return snapshot.pools.get(country) or Pool(country=country, provider=self._settings.provider)

    async def start(self, country: str, server: str = "", city: str = "", protocol: Protocol | None = None) -> Node:
        """Raise the pool by one and place a node for it. Raises ProviderError where no server is to be had."""
        await self._need_own_fleet()
        for _ in range(ATTEMPTS):
            try:
                node = await self._start_once(country, server, city, protocol)
            except StaleVersionError:
                continue
            self._changed()
            return node
        raise FleetError(f"pool {country} keeps being changed by others, try again")

    async def _start_once(self, country: str, server: str, city: str, protocol: Protocol | None) -> Node:
        async with self._placement.lock:
            claims = await self._claims(country)
            snapshot = await self.snapshot()
            pool = self.pool_of(snapshot, country)
            if pool.desired >= pool.max:
                raise LimitError(f"pool {country} already wants {pool.desired} nodes, its max is {pool.max}")
            spoken = protocol or pool.protocol
            choice = await self._placement.choose(pool, Wish(country, spoken, server, city))
            slot = _free_slot(country, snapshot)
            await self._registry.put_pool(pool.model_copy(update={"desired": pool.desired + 1}))
            node = self._placement.node(slot, pool, choice, spoken)
            follows = pool.protocol if protocol is None else None
            node = node.model_copy(update={"follows": follows, "asked_city": city})
            placed = await self._placement.claim(slot, node, claims.get(slot, ""))
            return placed or await self._holder(slot)

    async def _claims(self, country: str) -> dict[str, str]:
        """Who holds the slots of a country; to be read before the snapshot, so that nobody new is taken over from."""
        return await self._registry.claims([slot_name(country, index) for index in range(MOST_SLOTS)])

    async def _holder(self, slot: str) -> Node:
        # Another control instance answered the raised wish first: its node is the one asked for.
        holder = (await self._registry.claims([slot])).get(slot, "")
        found = await self._registry.node(holder) if holder else None
        if found is None or found.status.ended:
            raise FleetError("the wish was recorded; its node is placed by another instance")
        return found

    async def stop(self, node_id: str) -> Node:
        """Lower the pool by one and drain this very node. One that is leaving or gone is answered as it is."""
        for _ in range(ATTEMPTS):
            snapshot = await self.snapshot()
            node = _vpn(snapshot, node_id)
            if node.status.ended or node.status is NodeStatus.DRAINING:
                return node
            pool = self.pool_of(snapshot, node.country)
            if pool.desired <= pool.min and pool.desired > 0:
                raise LimitError(f"pool {pool.country} must keep {pool.min} nodes: lower its min first")
            draining = node.model_copy(update={"status": NodeStatus.DRAINING, "reason": "", "changed_at": self._wall()})
            lowered = pool.model_copy(update={"desired": max(0, pool.desired - 1)})
            try:
                if await self._registry.retire(lowered, draining, node.status):
                    self._changed()
                    return draining
            except StaleVersionError:
                continue
        raise FleetError(f"node {node_id} keeps being changed by others, try again")

    async def restart(self, node_id: str, reason: str = "an operator asked for a restart") -> Node:
        """Let a successor take over from a node; returns the successor.

        Where there is no room for one yet (others of the pool are being replaced) or no server, the node itself is
        returned with `retire` set: its turn comes. Where its account has no slot for both, it is returned draining, and
        says so. Asked again, it gives the same successor.
        """
        await self._need_own_fleet()
        for _ in range(ATTEMPTS):
            found = await self._restart_once(node_id, reason)
            if found is not None:
                self._changed()
                return found
        raise FleetError(f"node {node_id} keeps being changed by others, try again")

    async def rotate(self, country: str, reason: str = "an operator asked for fresh nodes") -> list[Node]:
        """Replace every active node of a country, one after another; returns those that are to be replaced."""
        self._need_engine()
        snapshot = await self.snapshot()
        nodes = [n for n in snapshot.nodes.values() if n.country == country and n.kind is NodeKind.VPN]
        marked = [await self._mark(node, reason) for node in nodes if node.status in ACTIVE]
        self._changed()
        found = [node for node in marked if node is not None]
        if not found:
            raise NotFoundError(f"there is no node to rotate in {country}")
        return sorted(found, key=lambda node: node.slot)

    async def _mark(self, node: Node, reason: str) -> Node | None:
        """Tell a node to retire; None where it moves on meanwhile, each time."""
        for _ in range(ATTEMPTS):
            marked = node if node.retire else node.model_copy(update={"retire": reason})
            if marked is node or await self._registry.advance_node(marked, node.status):
                return marked
            stored = await self._registry.node(node.id)
            if stored is None or stored.status not in ACTIVE:
                return None
            node = stored
        return None

    async def _restart_once(self, node_id: str, reason: str) -> Node | None:
        async with self._placement.lock:
            claims = await self._claims(node_id[:2])
            snapshot = await self.snapshot()
            node = _vpn(snapshot, node_id)
            if node.status.ended:
                raise FleetError(f"node {node_id} has ended: start another")
            heir = successor(snapshot.nodes.values(), node_id)
            if heir is not None or node.status is NodeStatus.DRAINING:
                return heir or node
            marked = await self._mark(node, reason)
            if marked is None or not has_room(snapshot.nodes.values(), self.pool_of(snapshot, node.country)):
                return marked
            return await self._place_successor(marked, snapshot, claims)

    async def _place_successor(self, old: Node, snapshot: Snapshot, claims: dict[str, str]) -> Node | None:
        pool = self.pool_of(snapshot, old.country)
        asked, slot = wish(pool, old), _free_slot(old.country, snapshot)
        try:
            choice = await self._placement.choose(pool, asked)
        except NoSlotError as error:
            leaving = drained_first(old, str(error), self._wall())
            return leaving if await self._registry.advance_node(leaving, old.status) else None
        except ProviderError:
            return old  # it serves on; the reconciler tries again, and its pool says why it waits
        node = self._placement.node(slot, pool, choice, asked.protocol).model_copy(update=traits(pool, old))
        try:
            return await self._placement.claim(slot, node, claims.get(slot, ""))
        except ProviderError:
            return None  # somebody else was faster, perhaps with the very same wish: look again

    async def scale(self, country: str, nodes: int) -> Pool:
        """Set `desired`."""
        return await self.change_pool(country, {"desired": nodes})

    async def change_pool(self, country: str, changes: dict[str, Any], version: int | None = None) -> Pool:
        """Change some fields of a pool; with `version`, only if it still is that one (StaleVersionError).

        A `desired` that is not among them follows new limits: never fewer, never more. What changes nothing makes no
        new version.
        """
        for _ in range(ATTEMPTS):
            pool = self.pool_of(await self.snapshot(), country)
            if version is not None and version != pool.version:
                raise StaleVersionError(pool.version)
            changed = _checked(pool, changes)
            if changed == pool and pool.version:
                return pool
            if changed.desired > pool.desired:
                self._need_engine()
            if changed.desired > pool.desired or changed.provider != pool.provider:
                self._need_provider(changed.provider)
            try:
                stored = await self._registry.put_pool(changed)
            except StaleVersionError:
                if version is not None:
                    raise
                continue
            self._changed()
            return stored
        raise FleetError(f"pool {country} keeps being changed by others, try again")

    async def remove_pool(self, country: str, version: int | None = None) -> None:
        """Forget a pool that wants no node and has none; with `version`, only if it still is that one.

        Raises NotFoundError, FleetError where it is in use, StaleVersionError.
        """
        for _ in range(ATTEMPTS):
            snapshot = await self.snapshot()
            pool = snapshot.pools.get(country)
            if pool is None:
                raise NotFoundError(f"there is no pool {country}")
            if version is not None and version != pool.version:
                raise StaleVersionError(pool.version)
            _unused(pool, snapshot)
            if await self._registry.removal.pool(pool):
                return self._changed()
        raise FleetError(f"pool {country} keeps being changed by others, try again")

    def _need_provider(self, name: str) -> None:
        try:
            self._placement.provider(name)
        except ProviderError as error:
            raise InvalidPoolError(str(error)) from None

    async def _need_own_fleet(self) -> None:
        self._need_engine()
        why = await self._elsewhere()
        if why:
            raise UnavailableError(why)

    def _need_engine(self) -> None:
        if self._settings.engine == "none":
            raise UnavailableError("no Docker Engine: this control was started without one, so it runs no VPN nodes")


def _vpn(snapshot: Snapshot, node_id: str) -> Node:
    node = snapshot.nodes.get(node_id)
    if node is None:
        raise NotFoundError(f"there is no node {node_id}")
    if node.kind is not NodeKind.VPN:
        raise FleetError(f"node {node_id} is {node.kind.value}: it is configured, not started")
    return node


def _checked(pool: Pool, changes: dict[str, Any]) -> Pool:
    try:
        changed = Pool.model_validate({**pool.model_dump(by_alias=True), **changes})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidPoolError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    if changed.min > changed.max:
        raise LimitError(f"pool {pool.country}: its min of {changed.min} is above its max of {changed.max}")
    if "desired" not in changes:
        within = min(max(changed.desired, changed.min), changed.max)
        changed = changed.model_copy(update={"desired": within})
    if not changed.min <= changed.desired <= changed.max:
        limits = f"is not between min {changed.min} and max {changed.max}"
        raise LimitError(f"pool {pool.country}: desired {changed.desired} {limits}")
    if pool.country in changed.fallback:
        raise InvalidPoolError(f"fallback: {pool.country} cannot be its own fallback")
    return changed


def _unused(pool: Pool, snapshot: Snapshot) -> None:
    """Raise InUseError where something is wished of `pool`, or left of it."""
    if pool.desired:
        raise InUseError(f"pool {pool.country} wants {pool.desired} nodes: set desired to 0 first, then remove it")
    own = [n for n in snapshot.nodes.values() if n.country == pool.country and n.kind is NodeKind.VPN]
    left = sorted(node.id for node in own if not node.status.ended)
    if left:
        shown = ", ".join(left)
        raise InUseError(f"pool {pool.country} still has nodes ({shown}): remove it when they have stopped")


def _free_slot(country: str, snapshot: Snapshot) -> str:
    held = {node.slot for node in snapshot.nodes.values() if not node.status.ended}
    return next(name for name in (slot_name(country, index) for index in range(len(held) + 1)) if name not in held)

"""What outlives an empty Redis: a copy of the fleet's wishes and nodes on disk, and how the registry is refilled.

The copy (`<state_dir>/fleet.json`, mode 0600: it holds hashes of passwords and tokens) follows the registry while that
is complete. A registry without an epoch is refilled from the copy and from the containers that run, and only then
declared complete, so that gateways never take it for a fleet without nodes.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog
from pydantic import ValidationError

from control.machines import elsewhere
from control.model import Container
from control.nodefiles import NodeFiles
from control.providers.files import write_private
from health.model import Node, NodeKind, NodeStatus, Pool, Protocol, Record, Token, UnknownSchemaError, User
from health.registry import Registry, Snapshot, StaleVersionError

log = structlog.get_logger()

MOST_WISHED = 10
"""What a pool may wish for (health.model); while nodes are replaced, more of a country run."""


class Copy(Record):
    """The part of a snapshot that control restores."""

    nodes: tuple[Node, ...] = ()
    pools: tuple[Pool, ...] = ()
    users: tuple[User, ...] = ()
    tokens: tuple[Token, ...] = ()


class Keeper:
    """Keeps the copy on disk."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "fleet.json"
        self._written: Copy | None = None

    async def keep(self, snapshot: Snapshot, tokens: Mapping[str, Token] = MappingProxyType({})) -> str:
        """Write what changed since the last call; why that did not work, or an empty string. Never raises."""
        copy = copy_of(snapshot, tokens)
        if copy == self._written:
            return ""
        try:
            await asyncio.to_thread(_write, self._path, copy.dump())
        except OSError as error:
            return f"the copy of the fleet is not saved, an older one stands: {error.strerror or error}"
        self._written = copy
        return ""

    async def load(self) -> tuple[Copy, str]:
        """The copy and an empty string, or an empty copy and why there is none.

        One that is not understood is put aside (`fleet.json.unread`), so that the next copy does not replace it.
        """
        try:
            return Copy.load(await asyncio.to_thread(self._path.read_bytes)), ""
        except FileNotFoundError:
            return Copy(), "there is no copy of an earlier one on disk"
        except OSError as error:
            return Copy(), f"its copy on disk cannot be read: {error.strerror or error}"
        except UnknownSchemaError as error:
            aside = self._path.with_name(self._path.name + ".unread")
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._path.replace, aside)
            return Copy(), f"its copy on disk is not understood and was put aside as {aside}: {error}"


def copy_of(snapshot: Snapshot, tokens: Mapping[str, Token] = MappingProxyType({})) -> Copy:
    """What is worth keeping of `snapshot`: not nodes that ended, not those that come from the configuration."""
    nodes = sorted(snapshot.nodes.values(), key=lambda node: node.id)
    return Copy(
        nodes=tuple(node for node in nodes if node.kind is NodeKind.VPN and not node.status.ended),
        pools=tuple(snapshot.pools[country] for country in sorted(snapshot.pools)),
        users=tuple(snapshot.users[name] for name in sorted(snapshot.users)),
        tokens=tuple(tokens[token_id] for token_id in sorted(tokens)),
    )


async def rebuild(
    registry: Registry,
    copy: Copy,
    containers: list[Container],
    adopt: Callable[[Container], Node | None],
    reached: Collection[str] = (),
    without: str = "",
) -> str:
    """Fill a registry that has no epoch, then begin one. What is there already is left alone. Raises RegistryError.

    Returns what was done, in plain words; `without` says why there is no copy. `reached`: the machines `containers` are
    from.
    """
    nodes = restored(copy, containers, adopt) + elsewhere(copy.nodes, reached, {found.node for found in containers})
    for node in nodes:
        await registry.claim_slot(node.slot, node, "")
    wanted = Counter(node.country for node in nodes)
    pools = {pool.country: pool for pool in copy.pools}
    for country, count in wanted.items():
        pools.setdefault(
            country, Pool(country=country, desired=min(count, MOST_WISHED), provider=_provider(nodes, country))
        )
    for pool in pools.values():
        with contextlib.suppress(StaleVersionError):
            await registry.put_pool(pool.model_copy(update={"version": 0}))
    present = await registry.users()
    for user in copy.users:
        if user.name not in present:
            await registry.put_user(user)
    for token in copy.tokens:
        await registry.put_token(token)
    await registry.begin_epoch()
    counts = f"{len(nodes)} nodes, {len(pools)} pools, {len(copy.users)} users"
    if without:
        return f"the registry was empty, and {without}; filled from what runs ({counts})"
    return f"the registry was empty: filled from the last copy on disk and from what runs ({counts})"


def restored(copy: Copy, containers: list[Container], adopt: Callable[[Container], Node | None]) -> list[Node]:
    """The nodes to record again: those of the copy that have a container, and containers the copy does not know."""
    known = {node.id: node for node in copy.nodes}
    nodes = []
    for container in containers:
        node = known.get(container.node) or (None if container.ended else adopt(container))
        if node is not None:
            nodes.append(node)
    return nodes


def adopted(container: Container, machine: str, provider: str, files: NodeFiles, now: float) -> Node | None:
    """A node told from its container's labels and its files alone, to be verified again; None where they are gone."""
    told = files.read(container.node)
    if told is None or told.get("node") != container.node:
        return None
    try:
        return Node(
            id=container.node,
            country=container.country,
            kind=NodeKind.VPN,
            machine=machine,
            status=NodeStatus.STARTING,
            slot=container.slot,
            provider=told.get("provider") or provider,
            account=told.get("account", ""),
            vpn_server=told.get("server", ""),
            protocol=Protocol(told["protocol"]),
            endpoint=_endpoint(told["endpoint"]),
            agent=files.agent_socket(container.node),
            requested_at=now,
            started_at=now,
            changed_at=now,
        )
    except (ValidationError, ValueError, KeyError, TypeError):
        return None


def _endpoint(told: dict[str, Any]) -> str:
    return f"{told['address']}:{told['port']}/{told['transport']}"


def _provider(nodes: list[Node], country: str) -> str:
    return next(node.provider for node in nodes if node.country == country)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, text.encode())

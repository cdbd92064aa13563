"""The providers' accounts: who may use one of their sessions, when one rests, and which servers failed lately.

A session is reserved before a node's container starts and given back once its record has ended and its container is
gone, so that an account is never over its budget, however many instances of control there are. What the ledger says is
compared with the nodes again and again: a session nobody has is freed, a node without one gets it.

How the ledger is kept is `health.registry.account_slots`' business; Redis is not known here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import structlog

from control.exits import by_others
from control.model import Container
from control.providers import Closed, NoSlotError, ProviderError, in_full_use
from health.countries import THIS_MACHINE
from health.model import Node, NodeKind, NodeStatus
from health.registry.account_slots import MAX_SLOTS, AccountSlots, Answer, Book

log = structlog.get_logger()

REST_S = 600.0
"""How long an account starts no node after its credentials or its number of sessions were refused: further tries
extend the provider's own lock (architecture page §6)."""

UNRECORDED_S = 30.0
"""How long a session may be held for a node that has no record yet."""


@dataclass(frozen=True, slots=True)
class Differences:
    """Where the ledger and the nodes disagree: sessions to free, as (account, slot, node), and nodes without one."""

    over: tuple[tuple[str, int, str], ...]
    missing: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """Which accounts take no node now, and all nodes that have a session or are to get one."""

    closed: Mapping[str, Closed]
    holding: tuple[Node, ...]


class Accounts:
    """`limits` says which accounts there are, and how many sessions each has. Methods raise RegistryError."""

    def __init__(self, ledger: AccountSlots, limits: Callable[[], Mapping[str, int]]) -> None:
        self._ledger = ledger
        self._limits = limits

    async def survey(self, nodes: Mapping[str, Node]) -> Survey:
        """How the accounts stand, `nodes` being all that are recorded. Who runs without a session gets one first."""
        limits = self._limits()
        book = await self._ledger.read(limits)
        missing = [node for node in differences(book, nodes, set()).missing if node.account in limits]
        if missing:
            await self._refill(missing, limits)
            book = await self._ledger.read(limits)
        return Survey(closed(book, limits), tuple(holding(book, nodes)))

    async def penalties(self) -> dict[str, float]:
        """The servers that failed lately, and how much that weighs."""
        return await self._ledger.penalties()

    async def reserve(self, node: Node) -> None:
        """A session for `node`. Idempotent.

        Raises NoSlotError: the account is in full use; ProviderError: it rests, is unknown, or has a node on that
        server.
        """
        slots = self._limits().get(node.account)
        if slots is None:
            raise ProviderError(f"account {node.account!r} is not configured any more")
        answer, detail = await self._ledger.take(node.account, slots, node.id, node.vpn_server)
        if answer is Answer.RESTING:
            raise ProviderError(resting(node.account, detail))
        if answer is Answer.SERVER:
            raise ProviderError(f"{node.vpn_server} is in use by node {detail} of account {node.account}")
        if answer is Answer.FULL:
            raise NoSlotError(f"account {node.account}: all {slots} sessions are in use")

    async def give_back(self, node: Node) -> None:
        """Free what was reserved for a node that came to nothing."""
        limits = {node.account: self._limits().get(node.account, 0)}
        book = await self._ledger.read(limits)
        for slot, holder in book.held.get(node.account, {}).items():
            if holder.node == node.id:
                await self._ledger.free(node.account, slot, node.id)

    async def refused(self, node: Node, reason: str) -> str:
        """The VPN server refused the account of `node`: let it rest. Returns the reason, completed."""
        if not node.account:
            return reason
        await self._ledger.rest(node.account, reason, REST_S)
        log.error("account_rests", account=node.account, node=node.id, seconds=REST_S, reason=reason)
        return f"{reason}; account {node.account} starts no node for {span(REST_S)}"

    async def settle(self, nodes: Mapping[str, Node], containers: Iterable[Container]) -> None:
        """Make the ledger agree with all nodes and with the containers of this machine."""
        limits = self._limits()
        sizes = {node.account: MAX_SLOTS for node in nodes.values() if node.account} | dict(limits)
        here = {container.node for container in containers}
        book = await self._ledger.read(sizes)
        found = differences(book, nodes, here)
        for account, slot, node_id in found.over:
            node = nodes.get(node_id)
            freed = await self._ledger.free(account, slot, node_id, UNRECORDED_S if node is None else 0.0)
            if freed:
                log.info("session_freed", account=account, slot=slot, node=node_id)
            # While an account rests its nodes fail by no fault of their servers.
            if freed and node is not None and failed_there(node) and account not in book.resting:
                await self._ledger.penalise(node.vpn_server)
        await self._refill(found.missing, sizes)
        for account, (reason, seconds) in book.resting.items():
            if seconds > REST_S:  # Redis's clock went back
                await self._ledger.rest(account, reason, REST_S)

    async def _refill(self, missing: Iterable[Node], sizes: Mapping[str, int]) -> None:
        present: dict[str, list[tuple[str, str]]] = {}
        for node in missing:
            present.setdefault(node.account, []).append((node.id, node.vpn_server))
        for account, nodes in present.items():
            await self._ledger.refill(account, sizes[account], nodes)


def closed(book: Book, limits: Mapping[str, int]) -> dict[str, Closed]:
    """The accounts of `limits` that rest or are in full use. Pure."""
    found = {}
    for account, slots in limits.items():
        why = in_full_use(account, len(book.held.get(account, {})), slots)
        if account in book.resting:
            why = Closed(resting(account, *book.resting[account]))
        if why is not None:
            found[account] = why
    return found


def holding(book: Book, nodes: Mapping[str, Node]) -> Iterator[Node]:
    """The nodes whose server is taken: those that have not ended, and those whose session is not free yet. Pure.

    Of a node that is not recorded, or not yet, its id, account and server are known.
    """
    live = {node.id for node in nodes.values() if not node.status.ended}
    yield from (nodes[node_id] for node_id in live)
    for account, slots in book.held.items():
        for holder in slots.values():
            if holder.node not in live:
                yield nodes.get(holder.node) or Node(
                    id=holder.node,
                    country=THIS_MACHINE,
                    kind=NodeKind.VPN,
                    machine="",
                    status=NodeStatus.REQUESTED,
                    account=account,
                    vpn_server=holder.server,
                )


def differences(book: Book, nodes: Mapping[str, Node], here: set[str]) -> Differences:
    """Compare the ledger with `nodes`, all that are recorded, and `here`, the nodes that have a container. Pure.

    A node has its tunnel, or may have, until its record has ended and its container is gone.
    """
    present = {
        node.id: node
        for node in nodes.values()
        if node.kind is NodeKind.VPN and node.account and (not node.status.ended or node.id in here)
    }
    over, holders = [], set()
    for account, slots in book.held.items():
        for slot, holder in slots.items():
            node = present.get(holder.node)
            if node is not None and node.account == account and node.id not in holders:
                holders.add(node.id)
            elif holder.node in nodes or holder.node not in here:
                over.append((account, slot, holder.node))
    return Differences(tuple(over), tuple(node for node in present.values() if node.id not in holders))


def failed_there(node: Node) -> bool:
    """True for a node that failed by itself after its container had started: its server may be at fault."""
    started = node.started_at is not None and bool(node.vpn_server)
    return node.status is NodeStatus.FAILED and started and not by_others(node.reason)


def resting(account: str, reason: str, seconds: float | None = None) -> str:
    """Why an account rests, in words."""
    left = "" if seconds is None else f" for another {span(seconds)}"
    return f"account {account} starts no node{left}: {reason}"


def span(seconds: float) -> str:
    """A span of time for people (`9 min 58 s`)."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    parts = [f"{minutes} min"] if minutes else []
    return " ".join([*parts, f"{rest} s"] if rest or not parts else parts)

"""What the reconciler observes, what it may do next, and what verification found. Values only.

Times in here are seconds of a monotonic clock: a wall clock that jumps must not end a node.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from health.model import Node, NodeStatus, Pool, Tunnel

LABEL = "io.vpnexit."
ACTIVE = (NodeStatus.REQUESTED, NodeStatus.STARTING, NodeStatus.VERIFYING, NodeStatus.SERVING)


@dataclass(frozen=True, slots=True)
class Container:
    """A container of our fleet, as the engine lists it. `node`, `country`, `slot` come from its labels."""

    id: str
    name: str
    node: str
    country: str
    slot: str
    state: str
    exit_code: int | None = None
    machine: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ("exited", "dead")


@dataclass(frozen=True, slots=True)
class AgentView:
    """A node's agent as seen from here. `since`: when tunnel or generation last changed."""

    tunnel: Tunnel
    generation: int
    since: float
    reason: str = ""


class Outcome(StrEnum):
    """What a verification came to. Unproved is not refuted: nothing spoke against the node."""

    PASSED = "passed"
    REFUTED = "refuted"
    UNPROVED = "unproved"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The admission gate's answer. `leak`: traffic may leave beside the tunnel, so the node must end at once."""

    outcome: Outcome
    generation: int
    reason: str = ""
    exit_ip: str = ""
    exit_country: str = ""
    leak: bool = False
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The times the plan goes by, in seconds.

    `hand_over`: how long a successor serves before its predecessor drains, so that every gateway has seen it.
    `unwell_after`: how long a node may be unwell before it is replaced; not within its first `unwell_age`.
    """

    start_timeout: float = 30.0
    verify_interval: float = 60.0
    verify_retry: float = 1.0
    tunnel_grace: float = 20.0
    drain_deadline: float = 30.0
    keep_ended: float = 600.0
    hand_over: float = 2.0
    unwell_after: float = 60.0
    unwell_age: float = 600.0


@dataclass(frozen=True, slots=True)
class World:
    """One observation of everything the plan depends on.

    `since`: when this process first saw each node in its present status. `not_before`: per slot, when the next node
    may be placed. `busy`: keys (node ids, slots, container ids) with a step still in progress. `unwell`: since when
    nodes whose tunnel is up have been scored unhealthy, `ailments` what is wrong with them. `moved`: why nodes do not
    match what their provider says now, by node. `idle`: draining nodes that no gateway has a connection through any
    more. `elsewhere`: live nodes of machines that the engine does not reach. `wall` alone is a wall clock (Unix
    seconds): nodes are rotated by it, and nothing else.
    """

    now: float
    wall: float = 0.0
    containers: tuple[Container, ...] = ()
    nodes: dict[str, Node] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)
    agents: dict[str, AgentView] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    unwell: dict[str, float] = field(default_factory=dict)
    ailments: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    idle: frozenset[str] = frozenset()
    elsewhere: tuple[Node, ...] = ()
    busy: frozenset[str] = frozenset()
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Place:
    """Choose a server for a new node, take the slot for it and record it as requested.

    `expected`: who holds the slot now. `replaces`: the node that gives way to the new one, or empty. `instead`: the
    node that drains first where its account has no slot for one more, or empty.
    """

    slot: str
    country: str
    expected: str
    replaces: str = ""
    instead: str = ""

    @property
    def key(self) -> str:
        return self.slot


@dataclass(frozen=True, slots=True)
class Create:
    """Write a requested node's files, create and start its container."""

    node: Node

    @property
    def key(self) -> str:
        return self.node.id


@dataclass(frozen=True, slots=True)
class Advance:
    """Move a node on to `to`, with what was learnt. `container`: whose log tells the reason, where it ended."""

    node: Node
    to: NodeStatus
    reason: str = ""
    verdict: Verdict | None = None
    container: Container | None = None

    @property
    def key(self) -> str:
        return self.node.id


@dataclass(frozen=True, slots=True)
class Retire:
    """Record that a node is to give way to a successor, and why. It goes on serving until that serves."""

    node: Node
    reason: str

    @property
    def key(self) -> str:
        return self.node.id


@dataclass(frozen=True, slots=True)
class Verify:
    """Ask the admission gate about a node."""

    node: Node

    @property
    def key(self) -> str:
        return self.node.id


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a node's container."""

    node: Node
    container: Container

    @property
    def key(self) -> str:
        return self.node.id


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove an ended node's container and files; its log is kept with the record."""

    node_id: str
    container: Container

    @property
    def key(self) -> str:
        return self.node_id


@dataclass(frozen=True, slots=True)
class RemoveOrphan:
    """Remove a container of our fleet that no record knows."""

    container: Container

    @property
    def key(self) -> str:
        return self.container.id


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete an ended node's record, log and claim."""

    node: Node

    @property
    def key(self) -> str:
        return self.node.id


Step = Place | Create | Advance | Retire | Verify | Stop | Remove | RemoveOrphan | Forget


def slot_name(country: str, index: int) -> str:
    """The name of a place in a pool (`jp-0`)."""
    return f"{country}-{index}"


def slot_index(slot: str) -> int:
    """The number in a slot's name; -1 where there is none."""
    _, dash, number = slot.rpartition("-")
    return int(number) if dash and number.isdecimal() else -1

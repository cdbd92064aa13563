"""A Fleet whose links are stubs that a test switches."""

import random
import socket
from typing import Any

from gateway.links import Link
from gateway.pools import Fleet
from health.model import Node, NodeStatus, Pool, Record, Score, User
from health.registry import Snapshot


class StubLink(Link):
    def __init__(self, node_id: str) -> None:
        super().__init__(node_id)
        self.up, self.number, self.load = True, 1, 0
        self.carried = self

    @property
    def usable(self) -> bool:
        return self.up

    @property
    def generation(self) -> int:
        return self.number

    @property
    def in_flight(self) -> int:
        return self.load

    def pop_socket(self, address: str) -> socket.SocketType | None:
        raise AssertionError("not asked here")


class StubFleet(Fleet):
    """Choices by a seeded rng; `take` replaces what of the snapshot it names."""

    def __init__(self, *records: Record) -> None:
        super().__init__("m", random.Random(7))
        self.take(*records)

    def open_link(self, node: Node) -> Link | None:
        return StubLink(node.id)

    def take(self, *records: Record) -> None:
        """The snapshot now holds these, copied, as a full read would."""
        copies = [record.model_copy(deep=True) for record in records]
        self.update(
            Snapshot(
                "epoch",
                {r.id: r for r in copies if isinstance(r, Node)},
                {r.node: r for r in copies if isinstance(r, Score)},
                {r.country: r for r in copies if isinstance(r, Pool)},
                {r.name: r for r in copies if isinstance(r, User)},
            )
        )

    def link(self, node_id: str) -> StubLink:
        found = self.links[node_id]
        assert isinstance(found, StubLink)
        return found


def node(node_id: str, status: NodeStatus = NodeStatus.SERVING, **fields: Any) -> Node:
    given = {"country": node_id[:2], "kind": "vpn", "machine": "m", "status": status, "generation": 1}
    return Node(id=node_id, **(given | fields))


def score(node_id: str, value: float = 80, healthy: bool = True, at: float = 0) -> Score:
    return Score(node=node_id, at=at, value=value, healthy=healthy)

"""Whose the fleet's nodes are. Pure.

An engine reaches some machines; a node on another one is for the control there to look after. A control that has no
node of its own, while others have, stands by: it can neither see nor replace theirs, and what it started in their place
would be there twice. One that has some leaves the others' alone. Which machine a node is on, its record says; one whose
container the engine lists is reached, whatever the machine was called when it was placed.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from health.model import Node, NodeKind


@dataclass(frozen=True, slots=True)
class Stance:
    """What a control may do. `reason` says which nodes are another's, empty where none are."""

    stands_by: bool = False
    reason: str = ""


def elsewhere(nodes: Iterable[Node], machines: Collection[str], here: Collection[str]) -> list[Node]:
    """The live VPN nodes that an engine does not reach: neither on its `machines` nor among its containers `here`."""
    return [node for node in _live(nodes) if node.machine not in machines and node.id not in here]


def stance(nodes: Collection[Node], machines: Collection[str], here: Collection[str]) -> Stance:
    """What the control of an engine may do about `nodes`, all that are recorded."""
    theirs = elsewhere(nodes, machines, here)
    if not theirs:
        return Stance()
    own, others = ", ".join(sorted(machines)), sorted({node.machine for node in theirs})
    count = "1 node" if len(theirs) == 1 else f"{len(theirs)} nodes"
    where = f"on machine {', '.join(others)}, which this control (of {own}) does not reach"
    if len(theirs) < len(_live(nodes)):
        return Stance(reason=f"{count} {where}: left alone; start the control there")
    return Stance(
        stands_by=True,
        reason=f"the fleet runs {where}: it stands by ({count}). Start the control there; if that machine is gone for "
        f"good, or this is it under a new name, set control.machine to {others[0]} here",
    )


def _live(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if node.kind is NodeKind.VPN and not node.status.ended]

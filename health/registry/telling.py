"""What is published on the channels `events` and `scores`, and read from them."""

import json
from typing import Any

from health.model import Node, NodeStatus, Record, Score, UnknownSchemaError


class Scored(Record):
    """Scores (without their terms) as change number `sequence` made them."""

    sequence: int
    scores: tuple[Score, ...]


def event(kind: str, subject: str, **details: Any) -> str:
    """Says that `subject` changed."""
    return json.dumps({"schema": 1, "kind": kind, "subject": subject, **details}, separators=(",", ":"))


def node_event(node: Node, was: NodeStatus | None = None) -> str:
    """Says what a node is now, and which status it was in before where that is known."""
    details = {"country": node.country, "status": node.status.value, "reason": node.reason, "retire": node.retire}
    return event("node", node.id, **details, was=was.value if was else "")


def told(text: str) -> dict[str, Any] | None:
    """The event that a message carries, None where it carries none."""
    try:
        said = json.loads(text)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def scored(text: str) -> Scored | None:
    """The scores that a message carries, None where they are not to be understood."""
    try:
        return Scored.load(text)
    except UnknownSchemaError:
        return None

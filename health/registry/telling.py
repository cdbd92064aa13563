"""What is published on the channel `events`, and read from it."""

import json
from typing import Any

from health.model import Node, NodeStatus


def event(kind: str, subject: str, **details: Any) -> str:
    """Says that `subject` changed."""
    return json.dumps({"schema": 1, "kind": kind, "subject": subject, **details}, separators=(",", ":"))


def node_event(node: Node, was: NodeStatus | None = None) -> str:
    """Says what a node is now, and which status it was in before where that is known."""
    details = {"country": node.country, "status": node.status.value, "reason": node.reason, "retire": node.retire}
    return event("node", node.id, **details, was=was.value if was else "")


def told(message: dict[str, Any]) -> dict[str, Any] | None:
    """The event that a message of a subscription carries, None where it carries none."""
    if message["type"] != "message":
        return None
    try:
        said = json.loads(message["data"])
    except ValueError:
        return None
    return said if isinstance(said, dict) else None

"""The nodes that come from the configuration alone: this machine's own address, and somebody's proxies.

Nothing is started for them, and nothing proved: they serve as long as they are configured.
"""

import hashlib

from control.config import ControlSettings, UpstreamNode
from health.model import Node, NodeKind, NodeStatus

KINDS = (NodeKind.DIRECT, NodeKind.UPSTREAM)
NOT_VERIFIED = "as configured: its exit address, its country and its DNS are not verified"


def configured(settings: ControlSettings, now: float) -> dict[str, Node]:
    """The nodes that the configuration names, by id; the same ids at every start. `now` is Unix seconds."""
    nodes = [_direct(country, settings.machine, now) for country in settings.direct_nodes]
    nodes += [_upstream(one, settings.machine, now) for one in settings.upstreams]
    return {node.id: node for node in nodes}


def _direct(country: str, machine: str, now: float) -> Node:
    return _node(f"{machine}/{country}", NodeKind.DIRECT, country, machine, now)


def _upstream(one: UpstreamNode, machine: str, now: float) -> Node:
    # Everything that is configured counts: what changed is another node.
    node = _node(f"{machine}/{one.country}/{one.city}/{one.url}", NodeKind.UPSTREAM, one.country, machine, now)
    return node.model_copy(update={"city": one.city, "upstream": one.url, "reason": NOT_VERIFIED})


def _node(identity: str, kind: NodeKind, country: str, machine: str, now: float) -> Node:
    return Node(
        id=country + hashlib.sha256(identity.encode()).hexdigest()[:6],
        country=country,
        kind=kind,
        machine=machine,
        status=NodeStatus.SERVING,
        requested_at=now,
        started_at=now,
        changed_at=now,
    )

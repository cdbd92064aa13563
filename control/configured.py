"""The nodes that come from the configuration alone: this machine's own address, and somebody's proxies.

Nothing is started for them, and nothing proved: they serve as long as they are configured and can be used at all.
"""

import hashlib
from collections.abc import Callable

from control.config import ControlSettings, UpstreamNode
from health.model import Node, NodeKind, NodeStatus

KINDS = (NodeKind.DIRECT, NodeKind.UPSTREAM)
NOT_VERIFIED = "as configured: its exit address, its country and its DNS are not verified"


def configured(
    settings: ControlSettings, now: float, lacking: Callable[[str], str] = lambda url: ""
) -> dict[str, Node]:
    """The nodes that the configuration names, by id; the same ids at every start. `now` is Unix seconds.

    `lacking` says why the proxy at an address cannot be used, or an empty string.
    """
    nodes = [_direct(country, settings.machine, now) for country in settings.direct_nodes]
    nodes += [_upstream(one, settings.machine, now, lacking(one.url)) for one in settings.upstreams]
    return {node.id: node for node in nodes}


def _direct(country: str, machine: str, now: float) -> Node:
    return _node(f"{machine}/{country}", NodeKind.DIRECT, country, machine, now)


def _upstream(one: UpstreamNode, machine: str, now: float, fault: str) -> Node:
    # Everything that is configured counts: what changed is another node.
    node = _node(f"{machine}/{one.country}/{one.city}/{one.url}", NodeKind.UPSTREAM, one.country, machine, now)
    told = {"status": NodeStatus.FAILED, "started_at": None} if fault else {}
    return node.model_copy(update={"city": one.city, "upstream": one.url, "reason": fault or NOT_VERIFIED, **told})


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

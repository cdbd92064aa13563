"""Records as API clients see them. Pure; field names are those of the original system."""

from datetime import UTC, datetime
from typing import Any

from health import countries, upstream
from health.model import Node, NodeStatus, Pool, Sample, Score, Tunnel, User

STATUS = {
    NodeStatus.REQUESTED: "starting",
    NodeStatus.STARTING: "starting",
    NodeStatus.VERIFYING: "starting",
    NodeStatus.SERVING: "running",
    NodeStatus.DRAINING: "stopping",
    NodeStatus.STOPPED: "stopped",
    NodeStatus.FAILED: "error",
}


def node_view(node: Node, sample: Sample | None, score: Score | None) -> dict[str, Any]:
    """One node. `state` is the controller's own, finer status."""
    return {
        "id": node.id,
        "country": node.country,
        "city": node.city,
        "kind": node.kind.value,
        "machine": node.machine,
        "status": STATUS[node.status],
        "state": node.status.value,
        "slot": node.slot,
        "protocol": node.protocol.value if node.protocol else None,
        "vpn_server": node.vpn_server,
        "upstream": upstream.parse(node.upstream).place if node.upstream else None,
        "tailscale_hostname": None,
        "tailscale_ip": None,
        "started_at": _time(node.started_at),
        "vpn_connected": sample is not None and sample.reachable and sample.tunnel is Tunnel.UP,
        "tailscale_connected": False,
        "health_status": _health(node, score),
        "score": score.value if score is not None else None,
        "exit_ip": node.exit_ip or None,
        "exit_country": node.exit_country or None,
        "reason": node.reason,
        "metrics": _metrics(sample) if sample is not None else None,
    }


def pool_view(pool: Pool, nodes: list[Node], waiting_for: str) -> dict[str, Any]:
    """One pool, how far its wish is fulfilled, and what it waits for."""
    own = [node for node in nodes if node.country == pool.country and not node.status.ended]
    return {
        "country": pool.country,
        "name": countries.name(pool.country),
        "port": countries.port(pool.country),
        "desired": pool.desired,
        "min": pool.min,
        "max": pool.max,
        "strategy": pool.strategy.value,
        "provider": pool.provider,
        "protocol": pool.protocol.value,
        "fallback": list(pool.fallback),
        "version": pool.version,
        "nodes": sorted(node.id for node in own),
        "serving": sum(node.status is NodeStatus.SERVING for node in own),
        "reason": waiting_for,
    }


def user_view(user: User, month_bytes: int | None) -> dict[str, Any]:
    """One proxy user; never the password's hash. `month_bytes` is None where nothing was counted this month (UTC)."""
    return {
        "name": user.name,
        "allowed_countries": list(user.allowed_countries),
        "default_country": user.default_country,
        "max_connections": user.max_connections,
        "bytes_per_second": user.bytes_per_second,
        "monthly_bytes": user.monthly_bytes,
        "month_bytes": month_bytes,
    }


def _health(node: Node, score: Score | None) -> str:
    if node.status is NodeStatus.FAILED:
        return "unhealthy"
    if node.status is not NodeStatus.SERVING or score is None:
        return "unknown"
    return "healthy" if score.healthy else "unhealthy"


def _metrics(sample: Sample) -> dict[str, Any]:
    return {
        "vpn_connected": sample.reachable and sample.tunnel is Tunnel.UP,
        "network_rx": sample.rx_bytes,
        "network_tx": sample.tx_bytes,
        "probe_ms": sample.probe_ms,
        "loss": sample.loss,
        "handshake_age_s": sample.handshake_age_s,
        "last_health_check": _time(sample.at),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

"""Records as API clients see them. Pure; field names are those of the original system."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from control import tokens
from control.api.bodies import STATUSES, Country
from health import countries, upstream
from health.model import Node, NodeKind, NodeStatus, Pool, Protocol, Sample, Scope, Score, Strategy, Token, Tunnel, User
from health.score import MEANING

STATUS: dict[NodeStatus, STATUSES] = {
    NodeStatus.REQUESTED: "starting",
    NodeStatus.STARTING: "starting",
    NodeStatus.VERIFYING: "starting",
    NodeStatus.SERVING: "running",
    NodeStatus.DRAINING: "stopping",
    NodeStatus.STOPPED: "stopped",
    NodeStatus.FAILED: "error",
}
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Health = Literal["healthy", "unhealthy", "unknown"]


class View(BaseModel):
    """Something the API answers."""

    model_config = ConfigDict(frozen=True)


class MetricsView(View):
    """A node's last sample; bytes since its tunnel began."""

    vpn_connected: bool
    network_rx: int
    network_tx: int
    probe_ms: float | None
    loss: float
    handshake_age_s: float | None
    last_health_check: Time


class NodeView(View):
    """One exit. `state` is the controller's own, finer status; `virtual`: its server is not really in the country."""

    id: str
    country: Country
    city: str
    kind: NodeKind
    machine: str
    status: STATUSES
    state: NodeStatus
    slot: str
    protocol: Protocol | None
    vpn_server: str
    virtual: bool
    upstream: str | None
    tailscale_hostname: str | None
    tailscale_ip: str | None
    started_at: Time | None
    vpn_connected: bool
    tailscale_connected: bool
    health_status: Health
    score: float | None
    exit_ip: str | None
    exit_country: str | None
    reason: str
    metrics: MetricsView | None


class StartedView(View):
    """A node that was begun."""

    status: STATUSES
    node_id: str
    country: Country
    server: str


class StoppedView(View):
    """A node that is being stopped, or has been."""

    status: STATUSES
    node_id: str
    country: Country


class LogsView(View):
    """The end of a node's log."""

    node_id: str
    lines: int
    logs: str


class TermView(View):
    """A factor of a score, 0 to 1, and what it was made of: `input` is null where that was not measured."""

    value: float
    input: float | None
    meaning: str


class ScoreView(View):
    """A node's score and every term of it: `score` is 100 times the product of all `terms` but `health`, the rise and
    fall count. `explained` says what each was made of, `seen` what the gateways told of the node lately, `ejected` why
    it is left out of the choice although it is healthy: it is so much slower, or fails so much more, than its
    neighbours. All null or empty while nothing was measured."""

    node_id: str
    country: Country
    score: float | None
    health_status: Health
    ejected: str
    terms: dict[str, float]
    explained: dict[str, TermView]
    seen: dict[str, float]
    latency_ms: float | None
    scored_at: Time | None
    metrics: MetricsView | None


class PoolView(View):
    """The nodes of one country: the wish, how far it is fulfilled, and what it waits for (`reason`)."""

    country: Country
    name: str
    port: int
    desired: int
    min: int
    max: int
    strategy: Strategy
    provider: str
    protocol: Protocol
    fallback: list[Country]
    rotate_hours: float | None
    target_connections: int | None
    version: int
    nodes: list[str]
    serving: int
    reason: str


class UserView(View):
    """One proxy user. `month_bytes` is null where nothing was counted this month (UTC)."""

    name: str
    allowed_countries: list[Country]
    default_country: Country | None
    max_connections: int | None
    bytes_per_second: int | None
    monthly_bytes: int | None
    month_bytes: int | None


class DeletedView(View):
    """Something that is gone."""

    status: Literal["deleted"] = "deleted"
    name: str


class TokenView(View):
    """One API token, without its secret. `expires_at` null: it is good until it is removed."""

    id: str
    name: str
    scope: Scope
    created_at: Time
    expires_at: Time | None
    expired: bool


class NewTokenView(TokenView):
    """One API token with its secret, which is shown this once."""

    token: str


def node_view(node: Node, sample: Sample | None, score: Score | None) -> NodeView:
    """One node."""
    return NodeView(
        id=node.id,
        country=node.country,
        city=node.city,
        kind=node.kind,
        machine=node.machine,
        status=STATUS[node.status],
        state=node.status,
        slot=node.slot,
        protocol=node.protocol,
        vpn_server=node.vpn_server,
        virtual=node.virtual,
        upstream=upstream.parse(node.upstream).place if node.upstream else None,
        tailscale_hostname=None,
        tailscale_ip=None,
        started_at=shown_time(node.started_at),
        vpn_connected=sample is not None and sample.reachable and sample.tunnel is Tunnel.UP,
        tailscale_connected=False,
        health_status=health_of(node, score),
        score=score.value if score is not None else None,
        exit_ip=node.exit_ip or None,
        exit_country=node.exit_country or None,
        reason=node.reason or (f"to be replaced: {node.retire}" if node.retire else ""),
        metrics=_metrics(sample) if sample is not None else None,
    )


def score_view(node: Node, sample: Sample | None, score: Score | None) -> ScoreView:
    """One node's score, term by term."""
    return ScoreView(
        node_id=node.id,
        country=node.country,
        score=score.value if score else None,
        health_status=health_of(node, score),
        ejected=score.ejected if score else "",
        terms=score.terms if score else {},
        explained=_explained(score) if score else {},
        seen=score.seen if score else {},
        latency_ms=score.latency_ms if score else None,
        scored_at=shown_time(score.at) if score else None,
        metrics=_metrics(sample) if sample else None,
    )


def pool_view(pool: Pool, nodes: list[Node], waiting_for: str) -> PoolView:
    """One pool."""
    own = [node for node in nodes if node.country == pool.country and not node.status.ended]
    return PoolView(
        country=pool.country,
        name=countries.name(pool.country),
        port=countries.port(pool.country),
        desired=pool.desired,
        min=pool.min,
        max=pool.max,
        strategy=pool.strategy,
        provider=pool.provider,
        protocol=pool.protocol,
        fallback=list(pool.fallback),
        rotate_hours=pool.rotate_hours,
        target_connections=pool.target_connections,
        version=pool.version,
        nodes=sorted(node.id for node in own),
        serving=sum(node.status is NodeStatus.SERVING for node in own),
        reason=waiting_for,
    )


def user_view(user: User, month_bytes: int | None) -> UserView:
    """One proxy user; never the password's hash."""
    return UserView(
        name=user.name,
        allowed_countries=list(user.allowed_countries),
        default_country=user.default_country,
        max_connections=user.max_connections,
        bytes_per_second=user.bytes_per_second,
        monthly_bytes=user.monthly_bytes,
        month_bytes=month_bytes,
    )


def token_view(token: Token, now: float) -> TokenView:
    """One token, at `now` (Unix seconds)."""
    return TokenView(
        id=token.id,
        name=token.name,
        scope=token.scope,
        created_at=_time(token.created_at),
        expires_at=shown_time(token.expires_at),
        expired=tokens.expired(token, now),
    )


def health_of(node: Node, score: Score | None) -> Health:
    """What the API calls a node's health."""
    if node.status is NodeStatus.FAILED:
        return "unhealthy"
    if node.status is not NodeStatus.SERVING or score is None:
        return "unknown"
    return "healthy" if score.healthy else "unhealthy"


def shown_time(seconds: float | None) -> str | None:
    """Unix seconds as RFC 3339, in UTC."""
    return None if seconds is None else _time(seconds)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _explained(score: Score) -> dict[str, TermView]:
    return {
        name: TermView(value=value, input=score.inputs.get(name), meaning=MEANING.get(name, ""))
        for name, value in score.terms.items()
    }


def _metrics(sample: Sample) -> MetricsView:
    return MetricsView(
        vpn_connected=sample.reachable and sample.tunnel is Tunnel.UP,
        network_rx=sample.rx_bytes,
        network_tx=sample.tx_bytes,
        probe_ms=sample.probe_ms,
        loss=sample.loss,
        handshake_age_s=sample.handshake_age_s,
        last_health_check=_time(sample.at),
    )

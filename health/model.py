"""What a node, a sample, a score, a pool and a user *are*. Values only: no I/O, no clock.

Every record is stored as JSON with `schema: 1`. Unknown fields are ignored, so that a newer writer does not break an
older reader; an unknown schema is refused.
"""

import re
import secrets
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from health import countries
from health.upstream import UpstreamUrl

Country = Annotated[str, AfterValidator(countries.normalise)]
NodeId = Annotated[str, Field(pattern=r"^[a-z]{2}[0-9a-f]{6}$")]
UserName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,64}$")]
TokenId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
UnixTime = Annotated[float, Field(ge=0, le=253_402_300_799)]  # up to the year 9999, the last that can be shown
NODE_ID = re.compile(r"[a-z]{2}[0-9a-f]{6}")


class UnknownSchemaError(ValueError):
    """A stored record that this version does not understand."""


class Record(BaseModel):
    """A stored value."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    schema_: Literal[1] = Field(default=1, alias="schema")

    def dump(self) -> str:
        """JSON text, with its schema number."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def load(cls, text: str | bytes) -> Self:
        """Read back what `dump` wrote.

        Raises:
            UnknownSchemaError: not JSON, another schema, or a field that is missing or out of range.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UnknownSchemaError(f"{cls.__name__} record refused: {where}: {first['msg']}") from None


class NodeKind(StrEnum):
    VPN = "vpn"
    UPSTREAM = "upstream"
    DIRECT = "direct"


class NodeStatus(StrEnum):
    """The life of a node, forward only."""

    REQUESTED = "requested"
    STARTING = "starting"
    VERIFYING = "verifying"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (NodeStatus.STOPPED, NodeStatus.FAILED)


class Strategy(StrEnum):
    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTIONS = "least_connections"
    WEIGHTED_LATENCY = "weighted_latency"
    RANDOM = "random"
    HEALTH_SCORE = "health_score"


class Protocol(StrEnum):
    WIREGUARD = "wireguard"
    OPENVPN_UDP = "openvpn_udp"
    OPENVPN_TCP = "openvpn_tcp"


class Node(Record):
    """One exit. Written by control alone; does not expire. Times are Unix seconds (wall clock).

    `virtual`: its server only seems to be in the country, and stands elsewhere, says the provider.
    `upstream` is the proxy of an `upstream` node, without its password: that stands in a file of the gateway's alone.

    `retire` says why the node is to give way to a successor, empty where it need not; it is never taken back. A
    successor's `replaces` is the node it is to take over from. `follows` is the pool's protocol that the node was
    placed by (None: it was asked for with a protocol of its own), `asked_city` the city it was asked for in.
    """

    id: NodeId
    country: Country
    city: str = ""
    kind: NodeKind
    machine: str
    status: NodeStatus
    reason: str = ""
    slot: str = ""
    provider: str = ""
    account: str = ""
    protocol: Protocol | None = None
    vpn_server: str = ""
    endpoint: str = ""
    virtual: bool = False
    agent: str = ""
    upstream: UpstreamUrl | Literal[""] = ""
    exit_ip: str = ""
    exit_country: str = ""
    generation: int = 0
    retire: str = ""
    replaces: NodeId | Literal[""] = ""
    follows: Protocol | None = None
    asked_city: str = ""
    requested_at: float = 0.0
    started_at: float | None = None
    changed_at: float = 0.0


class Tunnel(StrEnum):
    """The tunnel's state as the agent tells it."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"


Counter = Annotated[int, Field(ge=0, lt=1 << 63)]
Milliseconds = Annotated[float, Field(ge=0, le=60_000)]
TargetName = Annotated[str, Field(pattern=r"^[0-9.]{7,15}:[0-9]{1,5}$")]


class Sample(Record):
    """What the collector measured about a node, once a second. Expires after 5 s.

    All of it was seen through the tunnel, by its agent; None (and the empty text) is "not known". A round of probes
    asks the tunnel's name servers and several targets at once; a dead target is not a dead tunnel.

    `probe_ms` is how long (milliseconds) the last good round took to become one, `connect_ms` the median TCP connect
    time of the last round over the `targets` that answered (address and port; None: no answer), or how long a round has
    been waiting for all of them, if that is longer; `jitter_ms` the mean difference between the connect times of one
    round and the next. `loss` is the share of the last 20 probes that the witness in the middle (name servers and
    targets) left unanswered: what is lost to all of them alike, and not one target's fault. `dns_ms` is the time of the
    last look-up by the tunnel's name servers, `dns_ok` whether one of them answers. `exit_ip` and `exit_country` are
    how the exit looks from outside, as last asked for this generation.

    `cpu_percent` is the container's (100: one core), `memory_bytes` what it uses, `rx_bytes` and `tx_bytes` what the
    tunnel has carried in all, `handshake_age_s` WireGuard's (None elsewhere). `refused` counts what this agent said
    that cannot be true, since its collector began to ask it.
    """

    node: NodeId
    at: UnixTime
    reachable: bool
    tunnel: Tunnel = Tunnel.DOWN
    generation: Counter = 0
    kill_switch: bool = False
    probe_ms: Milliseconds | None = None
    connect_ms: Milliseconds | None = None
    jitter_ms: Milliseconds | None = None
    loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    targets: Annotated[dict[TargetName, Milliseconds | None], Field(max_length=8)] = {}
    dns_ms: Milliseconds | None = None
    dns_ok: bool | None = None
    exit_ip: Annotated[str, Field(max_length=45)] = ""
    exit_country: Annotated[str, Field(pattern=r"^([a-z]{2})?$")] = ""
    handshake_age_s: Annotated[float, Field(ge=0, le=1e9)] | None = None
    cpu_percent: Annotated[float, Field(ge=0, le=100_000)] | None = None
    memory_bytes: Counter | None = None
    rx_bytes: Counter = 0
    tx_bytes: Counter = 0
    refused: Counter = 0


class Score(Record):
    """The number the choice is made by (0 worst, 100 best), and every term of it.

    `inputs` is what a term was made of, where that was measured; `seen` what the gateways told of the node lately (see
    health.evidence). `ejected` says why the choice is to leave the node out though it is healthy, empty where not.
    """

    node: NodeId
    at: float
    value: Annotated[float, Field(ge=0, le=100)]
    healthy: bool
    terms: dict[str, float] = {}
    inputs: dict[str, float] = {}
    seen: dict[str, float] = {}
    ejected: str = ""
    latency_ms: Annotated[float, Field(ge=0)] | None = None


class Pool(Record):
    """The nodes of one country, as the operator wishes them. `version` rises with every change.

    `rotate_hours`: how long a node serves before a fresh one takes over, one at a time; None: until something is wrong.
    `target_connections`: so many connections a node is to carry; `desired` then follows the load between `min` (at
    least 1) and `max`. None: `desired` stays as it is set. A `desired` of 0 always stays.

    `stamp` is drawn anew for every version: it tells a write that was repeated from one that says the same by chance.
    """

    country: Country
    desired: Annotated[int, Field(ge=0, le=10)] = 0
    min: Annotated[int, Field(ge=0, le=10)] = 0
    max: Annotated[int, Field(ge=0, le=10)] = 10
    strategy: Strategy = Strategy.HEALTH_SCORE
    provider: str = "nordvpn"
    protocol: Protocol = Protocol.OPENVPN_UDP
    fallback: tuple[Country, ...] = ()
    rotate_hours: Annotated[float, Field(ge=0.01, le=8760)] | None = None
    target_connections: Annotated[int, Field(ge=1, le=100_000)] | None = None
    version: int = 0
    stamp: str = ""


class User(Record):
    """A proxy user. The password is stored as an argon2id hash only.

    None is no limit: `max_connections` open at once, `bytes_per_second` in each direction over all its connections,
    `monthly_bytes` both directions together per calendar month (UTC).
    """

    name: UserName
    password_hash: Annotated[str, Field(repr=False)]
    allowed_countries: tuple[Country, ...] = ()
    default_country: Country | None = None
    max_connections: Annotated[int, Field(ge=1)] | None = None
    bytes_per_second: Annotated[int, Field(ge=1024)] | None = None
    monthly_bytes: Annotated[int, Field(ge=1)] | None = None


class Scope(StrEnum):
    """What a token may do; each includes those before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def includes(self, other: "Scope") -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(other)


class Token(Record):
    """An API token. Of its secret only the SHA-256 is stored (64 hex digits); times are Unix seconds.

    `expires_at` None: it is good until it is removed.
    """

    id: TokenId
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_. -]{1,64}$")]
    scope: Scope
    sha256: Annotated[str, Field(repr=False, pattern=r"^[0-9a-f]{64}$")]
    created_at: float
    expires_at: float | None = None


def new_node_id(country: str) -> str:
    """A fresh node id: the country and six random hex digits, no dash (`jp3f9a1c`)."""
    return country + secrets.token_hex(3)

"""What requests may say. Strict: unknown fields and wrong types are refused with the field's name."""

import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from health import countries
from health.model import Protocol, Scope, Strategy, UserName

LONGEST_TTL_S = 10 * 366 * 86400
MOST_BYTES = 10**15  # what the registry's scripts count without rounding, and more than a line carries


def _whole(value: Any) -> Any:
    # To JSON Schema 2.0 is an integer; to us neither "2" nor true is one.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(ge=0, le=10, strict=True), BeforeValidator(_whole)]
STATUSES = Literal["running", "stopped", "error", "starting", "stopping"]

COUNTRY_SCHEMA = {
    "type": "string",
    "enum": sorted([*countries.codes(), "uk"]),
    "description": "ISO 3166-1 alpha-2; upper case will do, and uk is gb",
}
Country = Annotated[str, AfterValidator(countries.normalise), WithJsonSchema(COUNTRY_SCHEMA)]


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Query(BaseModel):
    """A request's query."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Empty(Body):
    """Nothing."""


class NoQuery(Query):
    """Nothing."""


class NodesQuery(Query):
    """GET /api/nodes."""

    limit: Annotated[int, Field(ge=1, le=10_000, description="at most so many")] | None = None
    offset: Annotated[int, Field(ge=0, le=1_000_000, description="after leaving out so many")] = 0
    country: Annotated[Country | None, Field(description="only those of this country")] = None
    status: Annotated[STATUSES | None, Field(description="only those that are so")] = None


class LogsQuery(Query):
    """GET /api/nodes/{id}/logs."""

    lines: Annotated[int, Field(ge=1, le=1000, description="the last so many")] = 100


class SpeedQuery(Query):
    """POST /api/speed-test/{id}."""

    wait: Annotated[float, Field(ge=0, le=60, description="for the result, at most so many seconds")] = 25.0


class ResultsQuery(Query):
    """GET /api/speed-test/results."""

    limit: Annotated[int, Field(ge=1, le=1000, description="at most so many")] = 100
    offset: Annotated[int, Field(ge=0, le=1_000_000, description="after leaving out so many")] = 0


class CountryQuery(Query):
    """GET /proxy.pac."""

    country: Annotated[Country | None, Field(description="where connections shall go; without it, anywhere")] = None


class StartBody(Body):
    """POST /api/nodes/{country}/start, as query or body."""

    server: Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z0-9.-]*$", description="this VPN server")] = ""
    city: Annotated[str, Field(max_length=64, description="a server in this city")] = ""
    protocol: Annotated[Protocol | None, Field(description="another protocol than the pool's")] = None


class PoolBody(Body):
    """PUT /api/pools/{country}: fields that are left out, or null, stay as they are; for `rotate_hours` and
    `target_connections` null is none."""

    desired: Annotated[Count | None, Field(description="nodes it shall have; left out it follows new limits")] = None
    min: Annotated[Count | None, Field(description="never fewer nodes")] = None
    max: Annotated[Count | None, Field(description="never more nodes")] = None
    strategy: Annotated[Strategy | None, Field(description="by what rule nodes are chosen")] = None
    provider: Annotated[
        Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9_-]+$")] | None,
        Field(description="where its VPN servers come from"),
    ] = None
    protocol: Annotated[Protocol | None, Field(description="what new nodes speak to their servers")] = None
    fallback: Annotated[
        tuple[Country, ...] | None,
        Field(description="countries to use, in this order, when no node of this one serves"),
    ] = None
    rotate_hours: Annotated[float, Field(ge=0.01, le=8760, strict=True)] | None = Field(
        default=None, description="how long a node serves before a fresh one takes over; null: until it fails"
    )
    target_connections: Annotated[int, Field(ge=1, le=100_000, strict=True), BeforeValidator(_whole)] | None = Field(
        default=None, description="connections per node that `desired` follows, between min and max; null: it stays"
    )
    version: Annotated[int, Field(ge=0, le=MOST_BYTES, strict=True), BeforeValidator(_whole)] | None = Field(
        default=None, description="change it only if it still has this version"
    )

    def changes(self) -> dict[str, Any]:
        """What is to be another than it was."""
        given = self.model_dump(exclude_unset=True, exclude={"version"})
        return {name: value for name, value in given.items() if value is not None or name in _MAY_BE_NONE}


_MAY_BE_NONE = frozenset({"rotate_hours", "target_connections"})


class ScaleBody(Body):
    """POST /api/pools/{country}/scale."""

    nodes: Count


class StrategyBody(Body):
    """POST /api/load-balancer/strategy. Without a country: of every pool there is."""

    strategy: Strategy
    country: Country | None = None


class UserFields(Body):
    """What a proxy user may be given. null: no limit."""

    allowed_countries: tuple[Country, ...] = ()
    default_country: Country | None = None
    max_connections: Annotated[int, Field(ge=1, le=1_000_000, strict=True), BeforeValidator(_whole)] | None = None
    bytes_per_second: Annotated[int, Field(ge=1024, le=MOST_BYTES, strict=True), BeforeValidator(_whole)] | None = None
    monthly_bytes: Annotated[int, Field(ge=1, le=MOST_BYTES, strict=True), BeforeValidator(_whole)] | None = None

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Self:
        if self.allowed_countries and self.default_country not in (None, *self.allowed_countries):
            raise ValueError("default_country is not among allowed_countries")
        return self


def _sendable(password: str) -> str:
    # RFC 1929 carries 255 bytes at most.
    size = len(password.encode("utf-8", "replace"))
    if not 1 <= size <= 255 or any(unicodedata.category(c) in ("Cc", "Cs") for c in password):
        raise ValueError("1 to 255 bytes of UTF-8, without control characters")
    return password


Password = Annotated[
    str,
    AfterValidator(_sendable),
    Field(min_length=1, max_length=255, json_schema_extra={"pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$"}),
]


class UserBody(UserFields):
    """POST /api/users."""

    name: UserName
    password: Annotated[Password, Field(repr=False)]


class UserPatch(UserFields):
    """PATCH or PUT /api/users/{name}: what is left out stays as it is, null lifts a limit."""

    password: Annotated[Password | None, Field(repr=False)] = None


class TokenBody(Body):
    """POST /api/tokens."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_. -]{1,64}$")]
    scope: Scope = Scope.READ
    ttl: Annotated[int, Field(ge=60, le=LONGEST_TTL_S, strict=True), BeforeValidator(_whole)] | None = Field(
        default=None, description="seconds that it is good for; null: until it is removed"
    )

"""What requests may say. Strict: unknown fields and wrong types are refused with the field's name."""

import asyncio
import json
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self, TypeVar

from aiohttp import web
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from control.api.errors import ApiError, bad_request
from health import countries
from health.model import NODE_ID, Protocol, Scope, Strategy, UserName

B = TypeVar("B", bound=BaseModel)
BODY_S = 10.0
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
    country: Country | None = None
    status: STATUSES | None = None


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

    country: Country | None = None


class StartBody(Body):
    """POST /api/nodes/{country}/start, as query or body."""

    server: Annotated[str, StringConstraints(max_length=253, pattern=r"^[A-Za-z0-9.-]*$")] = ""
    city: Annotated[str, StringConstraints(max_length=64)] = ""
    protocol: Protocol | None = None


class PoolBody(Body):
    """PUT /api/pools/{country}: fields that are left out, or null, stay as they are; for `rotate_hours` and
    `target_connections` null is none."""

    desired: Count | None = None
    min: Count | None = None
    max: Count | None = None
    strategy: Strategy | None = None
    provider: Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9_-]+$")] | None = None
    protocol: Protocol | None = None
    fallback: tuple[Country, ...] | None = None
    rotate_hours: Annotated[float, Field(ge=0.01, le=8760, strict=True)] | None = None
    target_connections: Annotated[int, Field(ge=1, le=100_000, strict=True), BeforeValidator(_whole)] | None = None
    version: Annotated[int, Field(ge=0, le=MOST_BYTES, strict=True), BeforeValidator(_whole)] | None = None

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


def country_of(text: str) -> str:
    """A country from a path. Raises ApiError 400."""
    try:
        return countries.normalise(text)
    except ValueError as error:
        raise bad_request(str(error), "unknown_country") from None


def _node_id(text: str) -> str:
    if not NODE_ID.fullmatch(text):
        raise bad_request("that is not a node id: two letters and six hex digits, such as jp3f9a1c")
    return text


def _token_id(text: str) -> str:
    if len(text) != 12 or not set(text) <= set("0123456789abcdef"):
        raise bad_request("that is not a token's id: twelve hex digits")
    return text


def _user_name(text: str) -> str:
    try:
        return str(_adapter(UserName).validate_python(text))
    except ValidationError:
        raise ApiError(404, "not_found", "there is no such user") from None


PATH_CHECKS = {"country": country_of, "id": _node_id, "token": _token_id, "name": _user_name}


def in_path(found: Mapping[str, str]) -> dict[str, str]:
    """The checked parts of a path. Raises ApiError 400 or 404."""
    return {name: PATH_CHECKS[name](text) for name, text in found.items()}


def read_query(request: web.Request, kind: type[B]) -> B:
    """The query as `kind`. Raises ApiError 400."""
    return _checked(kind, _query(request)) if request.query_string else nothing(kind)


async def read_body(request: web.Request, kind: type[B], *, query: bool = False) -> B:
    """The body as `kind`; with `query`, query parameters count as fields too.

    Raises ApiError 400, 408, 413, 415 or 422.
    """
    given: dict[str, Any] = _query(request) if query else {}
    for name, value in (await _json(request)).items():
        if name in given and given[name] != value:
            raise bad_request(f"{name}: the query says one thing and the body another")
        given[name] = value
    return _checked(kind, given)


def _query(request: web.Request) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in request.query.items():
        if name in given:
            raise bad_request(f"{name[:64]}: given twice")
        given[name] = value
    return given


def _checked(kind: type[B], given: dict[str, Any]) -> B:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:64]
        said = first["msg"].removeprefix("Value error, ")
        if not where and first["type"] == "value_error":
            raise ApiError(422, "contradiction", said) from None
        raise bad_request(f"{where}: {said}" if where else said) from None


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        async with asyncio.timeout(BODY_S):
            raw = await request.read()
    except TimeoutError:
        raise ApiError(408, "too_slow", f"the body did not arrive within {BODY_S:g} s") from None
    except (ConnectionResetError, web.RequestPayloadError):
        raise bad_request("the body was cut off, or is not encoded as its header says") from None
    if not raw.strip():
        return {}
    if request.content_type != "application/json":
        raise ApiError(415, "bad_request", "send JSON, with Content-Type: application/json")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise bad_request("the body is not JSON") from None
    if not isinstance(body, dict):
        raise bad_request("the body is not a JSON object")
    return body


@cache
def nothing(kind: type[B]) -> B:
    """The query of a request that has none: one object for all."""
    return kind()


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)

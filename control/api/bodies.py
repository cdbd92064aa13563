"""What requests may say. Strict: unknown fields and wrong types are refused with the field's name."""

import json
from typing import Annotated, Any, Self, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from control.api.errors import ApiError, bad_request
from health import countries
from health.model import Country, Protocol, Strategy, UserName

B = TypeVar("B", bound="Body")
Count = Annotated[int, Field(ge=0, le=10, strict=True)]
MOST_BYTES = 10**15  # what the registry's scripts count without rounding, and more than a line carries


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class StartBody(Body):
    """POST /api/nodes/{country}/start, as query or body."""

    server: Annotated[str, StringConstraints(max_length=253, pattern=r"^[A-Za-z0-9.-]*$")] = ""
    city: Annotated[str, StringConstraints(max_length=64)] = ""
    protocol: Protocol | None = None


class PoolBody(Body):
    """PUT /api/pools/{country}: fields that are left out stay as they are."""

    desired: Count | None = None
    min: Count | None = None
    max: Count | None = None
    strategy: Strategy | None = None
    provider: Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9_-]+$")] | None = None
    protocol: Protocol | None = None
    fallback: tuple[Country, ...] | None = None
    version: Annotated[int, Field(ge=0, strict=True)] | None = None


class ScaleBody(Body):
    """POST /api/pools/{country}/scale."""

    nodes: Count


class UserBody(Body):
    """POST /api/users."""

    name: UserName
    password: Annotated[str, Field(repr=False)]
    allowed_countries: tuple[Country, ...] = ()
    default_country: Country | None = None
    max_connections: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    bytes_per_second: Annotated[int, Field(ge=1024, le=MOST_BYTES, strict=True)] | None = None
    monthly_bytes: Annotated[int, Field(ge=1, le=MOST_BYTES, strict=True)] | None = None

    @field_validator("password")
    @classmethod
    def _sendable(cls, password: str) -> str:
        # RFC 1929 carries 255 bytes at most.
        if not 1 <= len(password.encode()) <= 255 or not password.isprintable():
            raise ValueError("1 to 255 bytes of printable characters")
        return password

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Self:
        if self.allowed_countries and self.default_country not in (None, *self.allowed_countries):
            raise ValueError("default_country is not among allowed_countries")
        return self


def country_of(text: str) -> str:
    """A country from a path. Raises ApiError 400."""
    try:
        return countries.normalise(text)
    except ValueError as error:
        raise bad_request(str(error), "unknown_country") from None


async def read_body(request: web.Request, kind: type[B], *, query: bool = False) -> B:
    """The body as `kind`; with `query`, query parameters count as fields too. Raises ApiError 400, 413 or 415."""
    given: dict[str, Any] = {}
    if query:
        for name, value in request.query.items():
            if name in given:
                raise bad_request(f"{name}: given twice")
            given[name] = value
    body = await _json(request)
    for name, value in body.items():
        if name in given and given[name] != value:
            raise bad_request(f"{name}: the query says one thing and the body another")
        given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise bad_request(f"{where}: {first['msg']}" if where else first["msg"]) from None


async def _json(request: web.Request) -> dict[str, Any]:
    raw = await request.read()
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

"""How a request's path, query and body become what `control.api.bodies` describes, or a refusal naming the field."""

import asyncio
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from control.api.errors import ApiError, bad_request
from health import countries
from health.model import NODE_ID, UserName

B = TypeVar("B", bound=BaseModel)
BODY_S = 10.0


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
    return checked(kind, once(request.query)) if request.query_string else nothing(kind)


async def read_body(request: web.Request, kind: type[B], *, query: bool = False) -> B:
    """The body as `kind`; with `query`, query parameters count as fields too.

    Raises ApiError 400, 408, 413, 415 or 422.
    """
    try:
        async with asyncio.timeout(BODY_S):
            raw = await request.read()
    except TimeoutError:
        raise ApiError(408, "too_slow", f"the body did not arrive within {BODY_S:g} s") from None
    except (ConnectionResetError, web.RequestPayloadError):
        raise bad_request("the body was cut off, or is not encoded as its header says") from None
    return understood(kind, raw, request.content_type, once(request.query) if query else {})


def understood(kind: type[B], raw: bytes, media: str, query: Mapping[str, Any]) -> B:
    """The bytes of a body as `kind`, together with fields from elsewhere. Raises ApiError 400, 415 or 422."""
    given = dict(query)
    for name, value in _object(raw, media).items():
        if name in given and given[name] != value:
            raise bad_request(f"{name}: the query says one thing and the body another")
        given[name] = value
    return checked(kind, given)


def once(query: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a query. Raises ApiError 400 where one is there twice."""
    given: dict[str, Any] = {}
    for name, value in query.items():
        if name in given:
            raise bad_request(f"{name[:64]}: given twice")
        given[name] = value
    return given


def checked(kind: type[B], given: dict[str, Any]) -> B:
    """`given` as `kind`. Raises ApiError 400, or 422 where it contradicts itself."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:64]
        said = first["msg"].removeprefix("Value error, ")
        if not where and first["type"] == "value_error":
            raise ApiError(422, "contradiction", said) from None
        raise bad_request(f"{where}: {said}" if where else said) from None


def _object(raw: bytes, media: str) -> dict[str, Any]:
    if not raw.strip():
        return {}
    if media != "application/json":
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

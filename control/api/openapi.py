"""The OpenAPI 3.1 document, made from the table of operations and the types in it. Pure."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from control.api.bodies import COUNTRY_SCHEMA, Empty, NoQuery
from control.api.table import JSON, Operation, Refusal
from health.model import Scope

TITLE = "VPN Exit Controller"
VERSION = "1"
ABOUT = (
    "Starts, stops and watches VPN exits. Countries are ISO 3166-1 alpha-2 codes. Every refusal has the form of "
    "Refusal, also that of what is no HTTP request (400), of too large a head (431) and of one connection too many "
    "(503). X-Request-Id is taken from the request, or made up, and always answered."
)
_REF = "#/components/schemas/{model}"
_PATH_WORDS = {
    "country": "two letters, such as jp",
    "id": "a node's id, as in the list of nodes",
    "token": "a token's id, as in the list of tokens",
    "name": "a proxy user's name",
}
_PATH_SCHEMAS: dict[str, dict[str, Any]] = {
    "country": {"$ref": "#/components/schemas/Country"},
    "id": {"type": "string", "pattern": "^[a-z]{2}[0-9a-f]{6}$"},
    "token": {"type": "string", "pattern": "^[0-9a-f]{12}$"},
    "name": {"type": "string", "pattern": "^[A-Za-z0-9_.]{1,64}$"},
}
_WHY = {
    400: "not understood: `detail` names the field",
    401: "nobody is logged in, or the log-in is wrong",
    403: "not with this token's scope, or sent by another site's page",
    404: "not there",
    409: "not as things stand: changed by somebody else, or outside a limit",
    408: "the body did not arrive in time",
    413: "the body is larger than 64 KiB",
    415: "the body is not JSON",
    422: "understood, but its parts contradict each other",
    429: "too many failed log-ins from this address: see Retry-After",
    501: "not built yet",
    503: "not now: Redis, Docker or the provider does not answer, or has nothing to give",
}
_OK = {200: "done", 201: "made", 202: "begun", 304: "not changed", 503: "not ready"}


def openapi(operations: Iterable[Operation]) -> dict[str, Any]:
    """The whole document."""
    schemas: dict[str, Any] = {"Country": dict(COUNTRY_SCHEMA)}
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic", "description": "user admin"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "a token of /api/tokens"},
            },
        },
    }


def refusals(operation: Operation) -> list[int]:
    """The statuses an operation may refuse with: its own, and those that follow from what it takes."""
    found = {*operation.refusals}
    if operation.scope is not None:
        found |= {401, 429, 503} if _lowest(operation) else {401, 403, 429, 503}
    if operation.changes:
        found |= {400, 408, 413, 415, 503}
    if operation.query is not NoQuery or "{" in operation.path or not operation.changes:
        found.add(400)
    return sorted(found - set(operation.statuses))


def _lowest(operation: Operation) -> bool:
    return operation.scope is Scope.READ and not operation.changes


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation, schemas),
        "responses": _responses(operation, schemas),
        "security": [],
    }
    if operation.description:
        made["description"] = operation.description
    if operation.scope is not None:
        made["security"] = [{"basic": []}, {"bearer": []}, *([{}] if operation.may_be_open else [])]
        made["x-scope"] = operation.scope.value
    if operation.changes and operation.body is not Empty:
        schema = _schema(operation.body, "validation", schemas)
        made["requestBody"] = {"required": not operation.body_as_query, "content": {JSON: {"schema": schema}}}
    return made


def _parameters(operation: Operation, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    found = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_WORDS[name],
            "schema": _PATH_SCHEMAS[name],
        }
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    # Fields of a body that may stand in the query instead are checked as a body is; only one place is described.
    fields = _local(operation.query, schemas) if operation.query is not NoQuery else {}
    for name, schema in fields.items():
        said = schema["description"]
        found.append({"name": name, "in": "query", "required": False, "description": said, "schema": schema})
    if operation.if_match:
        found.append(
            {
                "name": "If-Match",
                "in": "header",
                "required": False,
                "description": "change it only if this still is its ETag",
                "schema": {"type": "string", "pattern": r'^(\*|"[0-9a-f]{1,16}")$'},
            }
        )
    return found


def _responses(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for status in operation.statuses:
        made[str(status)] = {"description": _OK[status]}
        if status != 304:
            made[str(status)]["content"] = _content(operation, schemas)
    for status in refusals(operation):
        schema = _schema(Refusal, "serialization", schemas)
        made[str(status)] = {"description": _WHY[status], "content": {JSON: {"schema": schema}}}
    return made


def _content(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    if operation.media != JSON:
        return {operation.media: {"schema": {"type": "string"}}}
    return {JSON: {"schema": _schema(operation.answer, "serialization", schemas)}}


def _local(kind: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """The properties of a query model; null cannot stand in a query, so it is left out."""
    whole = TypeAdapter(kind).json_schema(mode="validation", ref_template=_REF)
    schemas.update(_tidied(whole.get("$defs", {})))
    return {name: _without_null(_tidied(schema)) for name, schema in whole["properties"].items()}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return {**choices[0], **rest} if len(choices) == 1 else schema


def _schema(kind: Any, mode: JsonSchemaMode, schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of `kind`; what it refers to goes into `schemas`."""
    whole = TypeAdapter(kind).json_schema(mode=mode, ref_template=_REF, schema_generator=GenerateJsonSchema)
    schemas.update(_tidied(whole.pop("$defs", {})))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        schemas[kind.__name__] = _tidied(whole)
        return {"$ref": _REF.format(model=kind.__name__)}
    tidied: dict[str, Any] = _tidied(whole)
    return tidied


def _tidied(schema: Any) -> Any:
    """Without titles that only repeat names, and with one description of a country for all."""
    if isinstance(schema, list):
        return [_tidied(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("enum") == COUNTRY_SCHEMA["enum"]:
        rest = {name: value for name, value in schema.items() if name not in {*COUNTRY_SCHEMA, "title"}}
        return {"$ref": _REF.format(model="Country"), **rest}
    return {
        name: {field: _tidied(one) for field, one in value.items()}
        if name in ("properties", "$defs")
        else _tidied(value)
        for name, value in schema.items()
        if not (name == "title" and isinstance(value, str))
    }

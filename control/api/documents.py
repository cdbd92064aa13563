"""/api/openapi.json, and /docs: the same document as a page that needs nothing from elsewhere."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from aiohttp import web

from control.api.bodies import Empty, NoQuery
from control.api.openapi import openapi
from control.api.table import JSON, Call, Operation, Table

table = Table("documents")
HTML = "text/html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1b1f24;
       background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #d0d7de }
details { border: 1px solid #d0d7de; border-radius: 6px; margin: .4rem 0; padding: .3rem .8rem }
summary { cursor: pointer } code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { background: #f6f8fa; padding: .6rem; overflow-x: auto; border-radius: 6px }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .15rem .8rem .15rem 0;
       vertical-align: top } th { font-weight: 600 }
.method { display: inline-block; min-width: 4.2rem; font-weight: 700 }
.muted { color: #59636e }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } pre { background: #161b22 }
  details, h2 { border-color: #30363d } .muted { color: #9198a1 } a { color: #58a6ff } }
"""


@dataclass(frozen=True, slots=True)
class Documents:
    """Both forms of the document."""

    spec: bytes
    page: bytes


DOCUMENT = web.AppKey("document", Documents)


@table.add("GET", "/api/openapi.json", "openapi", answer=dict[str, Any])
async def specification(call: Call[Empty, NoQuery]) -> web.Response:
    """This document (OpenAPI 3.1)"""
    return web.Response(body=call.request.app[DOCUMENT].spec, content_type=JSON)


@table.add("GET", "/docs", "docs", media=HTML)
async def docs(call: Call[Empty, NoQuery]) -> web.Response:
    """This document as a page"""
    headers = {"Content-Type": f"{HTML}; charset=utf-8", "Content-Security-Policy": _POLICY}
    return web.Response(body=call.request.app[DOCUMENT].page, headers=headers)


def document_of(operations: Iterable[Operation]) -> Documents:
    """The documents that describe `operations`."""
    spec = openapi(operations)
    return Documents(json.dumps(spec, separators=(",", ":")).encode(), page(spec).encode())


def page(spec: dict[str, Any]) -> str:
    """The specification for people."""
    topics: dict[str, list[str]] = {}
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            topics.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    parts = [f"<h2>{escape(topic)}</h2>{''.join(entries)}" for topic, entries in topics.items()]
    schemas = spec["components"]["schemas"]
    types = "".join(_type(name, schema) for name, schema in schemas.items())
    info = spec["info"]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}: API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])}: API</h1><p>{escape(info['description'])}</p>"
        f'<p>For programs: <a href="/api/openapi.json">/api/openapi.json</a>.</p>'
        f"{''.join(parts)}<h2>Types</h2>{types}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [
        (
            f"<code>{escape(p['name'])}</code> <span class=muted>{p['in']}</span>",
            f"{_shape(p['schema'])} <span class=muted>{escape(p['description'])}</span>",
        )
        for p in operation["parameters"]
    ]
    body = operation.get("requestBody")
    if body:
        rows.append(("body", _content(body["content"])))
    for status, response in operation["responses"].items():
        shape = _content(response["content"]) if int(status) < 400 and "content" in response else ""
        rows.append((status, f"{escape(response['description'])} {shape}"))
    scope = operation.get("x-scope")
    who = f"scope {scope}" if scope else "open to all"
    table_rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows)
    return (
        f'<details id="{escape(operation["operationId"])}">'
        f"<summary><code><span class=method>{method.upper()}</span> {escape(path)}</code> "
        f"{escape(operation['summary'])}</summary><p>{escape(operation.get('description', ''))} "
        f"<span class=muted>({who})</span></p><table>{table_rows}</table></details>"
    )


def _content(content: dict[str, Any]) -> str:
    return ", ".join(
        _shape(told["schema"]) if media == JSON else f"<code>{escape(media)}</code>" for media, told in content.items()
    )


def _shape(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(_shape(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_shape(schema.get('items', {}))}"
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    if "additionalProperties" in schema and isinstance(schema["additionalProperties"], dict):
        return f"object of {_shape(schema['additionalProperties'])}"
    limits = {"minimum": "from", "maximum": "to", "maxLength": "at most, in characters:", "pattern": "like"}
    said = " ".join(f"{word} <code>{escape(str(schema[key]))}</code>" for key, word in limits.items() if key in schema)
    return f"{escape(str(schema.get('type', 'anything')))} {said}".strip()


def _type(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><th><code>{escape(field)}</code>{'' if field in required else ' <span class=muted>optional</span>'}</th>"
        f"<td>{_shape(one)} <span class=muted>{escape(one.get('description', ''))}</span></td></tr>"
        for field, one in schema.get("properties", {}).items()
    )
    shape = f"<table>{rows}</table>" if rows else f"<p>{_shape(schema)}</p>"
    # Open: a link to something that is folded away would lead nowhere.
    return (
        f'<details open id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"<p>{escape(schema.get('description', ''))}</p>{shape}</details>"
    )

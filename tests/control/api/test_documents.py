"""The document as JSON and as a page."""

import re
from html import escape
from typing import Any

from control.api.openapi import openapi
from control.api.server import OPERATIONS
from tests.control.api.conftest import NewApi


async def test_the_document_is_the_one_of_the_table(api: Any) -> None:
    answer = await api.get("/api/openapi.json")
    assert answer.content_type == "application/json"
    assert await answer.json() == openapi(OPERATIONS)


async def test_the_page_needs_nothing_from_elsewhere(fleet: Any, new_api: NewApi) -> None:
    await fleet.registry.begin_epoch()
    api = await new_api(fleet)
    answer = await api.get("/docs")
    assert answer.content_type == "text/html"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    text = await answer.text()
    for operation in OPERATIONS:
        assert operation.path in text
    assert not re.search(r"<(script|link|img|iframe)\b|src=|@import|url\(", text)
    assert set(re.findall(r'href="([^"]*)"', text)) - {"/api/openapi.json"} == {
        f"#{name}" for name in re.findall(r'href="#(\w+)"', text)
    }
    for name in set(re.findall(r'href="#(\w+)"', text)):
        assert f'<details open id="{name}">' in text, "a link to something folded away leads nowhere"


async def test_every_parameter_and_every_field_of_a_pool_is_described(api: Any) -> None:
    document = openapi(OPERATIONS)
    text = await (await api.get("/docs")).text()
    for methods in document["paths"].values():
        for operation in methods.values():
            assert f'id="{operation["operationId"]}"' in text
            for parameter in operation["parameters"]:
                assert parameter["description"], (operation["operationId"], parameter["name"])
                assert escape(parameter["description"]) in text
    for name, field in document["components"]["schemas"]["PoolBody"]["properties"].items():
        assert field.get("description"), name

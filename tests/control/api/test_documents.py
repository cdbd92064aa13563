"""The document as JSON and as a page."""

import re
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
        assert f'id="{name}"' in text

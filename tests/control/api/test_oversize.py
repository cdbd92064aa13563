"""A million characters where a country belongs: refused at once, in few words, and nothing comes of it."""

import json
import time
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient

from tests.control.told import Told

MUCH = "j" * 1_000_000
ENOUGH = "p" * 4_000
REQUEST_LINE = 8_190


@pytest.mark.parametrize("code", [MUCH, ENOUGH], ids=["a million", "as much as a request line takes"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/nodes/{}/start", None),
        ("GET", "/api/pools/{}", None),
        ("PUT", "/api/pools/{}", {"desired": 1}),
        ("POST", "/api/pools/{}/scale", {"nodes": 1}),
        ("GET", "/api/nodes?country={}", None),
        ("GET", "/proxy.pac?country={}", None),
        ("PUT", "/api/pools/jp", {"desired": 1, "fallback": ["{}"]}),
        ("POST", "/api/load-balancer/strategy", {"strategy": "random", "country": "{}"}),
        ("POST", "/api/users", {"name": "alice", "password": "long enough", "allowed_countries": ["{}"]}),
    ],
)
async def test_it_is_refused_at_once_in_few_words(
    api: TestClient[Any, Any], fleet: Any, told: Told, method: str, path: str, body: dict[str, Any] | None, code: str
) -> None:
    sent = None if body is None else json.dumps(body).replace("{}", code)
    began = time.process_time()  # ours, which is both ends: a busy machine does not count
    with structlog.testing.capture_logs() as logged:
        response = await api.request(
            method, path.replace("{}", code), data=sent, headers={"Content-Type": "application/json"}
        )
        text = await response.text()
    assert time.process_time() - began < 1
    assert 400 <= response.status < 500, text[:300]
    assert len(text) < 500
    if len(path.replace("{}", code)) <= REQUEST_LINE:  # longer ones do not even get through aiohttp's parser
        refusal = json.loads(text)
        assert refusal["status"] == response.status
        assert refusal["detail"]
    assert len(json.dumps(logged)) < 2_000
    assert all(len(json.dumps(event)) < 2_000 for event in told.events)
    snapshot = await fleet.registry.snapshot()
    assert (snapshot.pools, snapshot.nodes, snapshot.users) == ({}, {}, {})

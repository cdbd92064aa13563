"""How what requests may say is understood, and what they may not is told."""

import time
from typing import Any

import pytest

from tests.control.api.conftest import Client


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/api/nodes/jp00ff00", 404, "not_found"),
        ("GET", "/api/nodes/nonsense", 400, "bad_request"),
        ("DELETE", "/api/nodes/jp00ff00/stop", 404, "not_found"),
        ("GET", "/api/nodes/jp00ff00/logs", 404, "not_found"),
        ("POST", "/api/nodes/xx/start", 400, "unknown_country"),
        ("POST", "/api/nodes/japan/start", 400, "unknown_country"),
        ("GET", "/api/pools/%00", 400, "unknown_country"),
        ("POST", "/api/nodes/jp/start?speed=fast", 400, "bad_request"),
        ("POST", "/api/nodes/jp/start?protocol=pptp", 400, "bad_request"),
        ("POST", "/api/nodes/jp/start?city=a&city=b", 400, "bad_request"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("PATCH", "/api/nodes", 405, "method_not_allowed"),
        ("GET", "/api/users/nobody", 404, "not_found"),
        ("DELETE", "/api/users/nobody", 404, "not_found"),
    ],
)
async def test_bad_requests_are_told(ask: Client, method: str, path: str, status: int, reason: str) -> None:
    assert (await ask(method, path, status))["reason"] == reason


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"nodes": -1}, "nodes"),
        ({"nodes": 11}, "nodes"),
        ({"nodes": "2"}, "nodes"),
        ({"nodes": True}, "nodes"),
        ({"nodes": 1.5}, "nodes"),
        ({"nodes": 1, "more": 1}, "more"),
        ({}, "nodes"),
    ],
)
async def test_scale_wants_a_number(ask: Client, body: dict[str, Any], field: str) -> None:
    assert (await ask("POST", "/api/pools/jp/scale", 400, json=body))["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize("raw", [b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 5000])
async def test_bodies_that_are_no_json_object(ask: Client, raw: bytes) -> None:
    await ask("PUT", "/api/pools/jp", 400, data=raw, headers={"Content-Type": "application/json"})


async def test_forms_and_large_bodies_are_refused(ask: Client) -> None:
    await ask("PUT", "/api/pools/jp", 415, data={"desired": "1"})
    large = b'{"provider": "' + b"x" * 70_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    assert (await ask("PUT", "/api/pools/jp", 413, data=large, headers=headers))["reason"] == "too_large"


async def test_a_whole_number_with_a_point_is_one(ask: Client) -> None:
    assert (await ask("PUT", "/api/pools/jp", json={"max": 2.0}))["max"] == 2


async def test_a_million_letters_cost_nothing(api: Any, ask: Client) -> None:
    began = time.process_time()
    long = "j" * 60_000
    refused = await ask("PUT", "/api/pools/jp", 400, json={"fallback": [long]})
    assert len(refused["detail"]) < 200
    assert len((await ask("GET", "/api/pools/" + "j" * 7000, 400))["detail"]) < 200
    assert len((await ask("GET", "/api/nodes?" + "j" * 7000 + "=1", 400))["detail"]) < 200
    response = await api.get("/api/pools/" + "j" * 1_000_000)
    assert response.status == 400
    refused = await ask("POST", "/api/users", 413, json={"name": "j" * 1_000_000, "password": "x"})
    assert refused["reason"] == "too_large"
    assert (await ask("GET", "/api/pools/jp"))["version"] == 0
    assert time.process_time() - began < 1, "client and server together"

"""The document is true: what the API does is what it says, whatever is sent."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from control.api.openapi import openapi, refusals
from control.api.server import OPERATIONS
from tests.control.api.conftest import PASSWORD

# A request that the document allows may be refused for the state of things, or because its parts contradict each other.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "5xx"]
"""
# Statuses of 5xx are documented, so that a 500 is caught by status_code_conformance. How log-ins are refused is tried
# in test_gate: failing ones are slowed. A stream of events has no end to wait for.
LEFT_OUT = ["--exclude-checks", "not_a_server_error,ignored_auth", "--exclude-path", "/api/events"]


@pytest.mark.timeout(300)
async def test_schemathesis_finds_nothing_untrue(api: Any, fleet: Any, tmp_path: Path) -> None:
    spec = await (await api.get("/api/openapi.json")).json()
    countries = spec["components"]["schemas"]["Country"]
    assert len(countries["enum"]) > 240
    countries["enum"] = ["gb", "jp", "uk", "us", "zz"]  # it tries every one of them, at every path
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    stop = asyncio.Event()
    running = asyncio.create_task(fleet.reconciler.run(stop))
    words = ["--config-file", "schemathesis.toml", "run", "spec.json", "--url", str(api.make_url("/"))]
    words += ["--auth", f"admin:{PASSWORD}", "--seed", "1", "--max-examples", "5", "--no-color", *LEFT_OUT]
    words += ["--phases", "coverage,fuzzing"]
    tool = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        *words,
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await tool.communicate()
    stop.set()
    await running
    told = output.decode()
    assert tool.returncode == 0, told
    tested = re.search(r"Tested: +(\d+)", told)
    assert tested is not None
    assert int(tested[1]) == len(OPERATIONS) - 1, told


def test_every_operation_is_described_once() -> None:
    spec = openapi(OPERATIONS)
    described = {(method.upper(), path) for path, methods in spec["paths"].items() for method in methods}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    names = [operation.name for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert spec["openapi"].startswith("3.1")


async def test_routes_are_those_of_the_document(api: Any) -> None:
    routed = {
        (route.method, re.sub(r"{(\w+):[^}]*}", r"{\1}", route.resource.canonical))
        for route in api.app.router.routes()
        if route.method != "HEAD"
    }
    assert routed == {(operation.method, operation.path) for operation in OPERATIONS}


def test_all_that_is_referred_to_is_there() -> None:
    spec = openapi(OPERATIONS)
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(spec)))
    assert referred <= spec["components"]["schemas"].keys()
    assert "Country" in referred


def test_what_follows_from_what_an_operation_takes() -> None:
    by_name = {operation.name: refusals(operation) for operation in OPERATIONS}
    assert by_name["health"] == [400]
    assert by_name["node.list"] == [400, 401, 429, 503]
    assert by_name["token.list"] == [400, 401, 403, 429, 503]
    assert by_name["user.change"] == [400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503]

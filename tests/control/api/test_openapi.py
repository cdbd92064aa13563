"""The document is true: what the API does is what it says, whatever is sent."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.control.api.conftest import PASSWORD

SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429", "5xx"]
"""


@pytest.mark.timeout(240)
async def test_schemathesis(api: Any, fleet: Any, tmp_path: Path) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(fleet.reconciler.run(stop))
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    (tmp_path / "spec.json").write_text(await (await api.get("/api/openapi.json")).text())
    tool = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml",
        "run", "spec.json", "--url", str(api.make_url("/")), "--auth", f"admin:{PASSWORD}",
        "--exclude-path", "/api/events", "--exclude-checks", "not_a_server_error,ignored_auth", "--seed", "1",
        "--max-examples", "10", "--no-color", "--phases", "examples,coverage,fuzzing", 
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await tool.communicate()
    stop.set()
    await running
    print(output.decode())
    assert tool.returncode == 0, output.decode()

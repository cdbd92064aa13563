"""The commands that wait, against a real API and a real reconciler over the stand-in engine of tests/control."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control.model import Outcome, Verdict
from tests.control.api.conftest import PASSWORD, new_api  # noqa: F401
from tests.control.conftest import fleet, new_control, registry, world  # noqa: F401

ROOT = Path(__file__).parents[3]
STEP_S = 0.5  # by which the fleet's clock moves every round


async def vpnexit(address: str, state_dir: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "deploy.cli", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "VPNEXIT_API": address, "VPNEXIT_STATE_DIR": str(state_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
async def run(fleet: Any, new_api: Any, tmp_path: Path) -> AsyncIterator[Any]:  # noqa: F811
    """`run(*words)` is a command that is asked of a fleet that lives."""
    await fleet.registry.begin_epoch()
    client = await new_api(fleet)
    (tmp_path / "admin.password").write_text(PASSWORD)

    async def live() -> None:
        while True:
            await fleet.reconciler.tick()
            await fleet.reconciler.settle()
            fleet.world.ahead += STEP_S
            await asyncio.sleep(0.01)

    async def call(*words: str) -> "subprocess.CompletedProcess[str]":
        return await vpnexit(f"127.0.0.1:{client.port}", tmp_path, *words)

    task = asyncio.create_task(live(), name="the fleet lives")
    yield call
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def nodes(run: Any) -> set[str]:
    found = json.loads((await run("nodes", "list", "--status", "running", "--json")).stdout)
    return {node["id"] for node in found}


async def test_start_restart_scale_rotate(run: Any) -> None:
    started = json.loads((await run("nodes", "start", "jp", "--wait", "--json")).stdout)
    assert started["state"] == "serving"
    restarted = await run("nodes", "restart", started["id"], "--wait", "--json")
    assert restarted.returncode == 0, restarted.stderr
    assert json.loads(restarted.stdout)["id"] != started["id"]
    scaled = await run("pools", "scale", "jp", "2", "--wait")
    assert (scaled.returncode, scaled.stdout) == (0, "jp: 2 of 2 serving\n"), scaled.stderr
    old = await nodes(run)
    assert len(old) == 2
    rotated = await run("pools", "rotate", "jp", "--wait")
    assert (rotated.returncode, rotated.stdout) == (0, "jp: 2 of 2 serving\n"), rotated.stderr
    assert not old & await nodes(run)
    gone = await run("pools", "scale", "jp", "0", "--wait")
    assert (gone.returncode, gone.stdout) == (0, "jp: 0 of 0 serving\n"), gone.stderr
    assert await nodes(run) == set()


async def test_a_start_that_fails_says_why(run: Any, fleet: Any) -> None:  # noqa: F811
    fleet.world.verdicts["jp"] = Verdict(Outcome.REFUTED, 1, reason="its exit address is this machine's own")
    done = await run("nodes", "start", "jp", "--wait")
    assert done.returncode == 1
    assert "is failed: its exit address is this machine's own" in done.stderr
    fleet.world.provider.trouble = "the provider does not answer"
    done = await run("nodes", "start", "us", "--wait")
    assert done.returncode == 1
    assert "the provider does not answer (503" in done.stderr

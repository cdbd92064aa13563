"""The fault table, where the disk is full: a real file system without room."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from health.model import NodeStatus
from tests.control.conftest import Control
from tests.control.told import Told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_a_disk_that_is_full_starts_no_node_says_so_and_loses_nothing(
    new_control: Callable[..., Control], small_disk: Path, told: Told
) -> None:
    control = new_control(state_dir=small_disk)
    await control.pool(1)
    (serving,) = await control.serving()
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(1024))
    with structlog.testing.capture_logs() as logged:
        await control.pool(2)
        for _ in range(3):
            await control.later(0.1)
    failed = [node for node in (await control.registry.nodes()).values() if node.status is NodeStatus.FAILED]
    assert failed
    await told.caught_up()
    for node in failed:
        reason = f"files of node {node.id}: No space left on device"
        assert node.reason == reason
        assert [e["reason"] for e in told.of("node") if e["subject"] == node.id and e["status"] == "failed"] == [reason]
        assert [e["reason"] for e in logged if e.get("node") == node.id and e.get("status") == "failed"] == [reason]
    assert control.world.engine.running == [serving.id]
    assert any("No space left on device" in e["reason"] for e in logged if e.get("part") == "copy")
    kept, without = await control.reconciler._keeper.load()
    assert (without, [pool.desired for pool in kept.pools]) == ("", [1])
    filler.unlink()
    control.world.ahead += 60
    await control.serving(count=2)
    await control.later(1)
    assert [pool.desired for pool in (await control.reconciler._keeper.load())[0].pools] == [2]
    await told.caught_up()
    assert {e["subject"] for e in told.of("recovered")} == {"copy", "jp"}

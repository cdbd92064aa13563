"""Starts `speed_stand_in`, for the tests of this folder."""

import functools
import os
import subprocess
import sys
from pathlib import Path

from health.agent_client import AgentClient
from health.config import SpeedTestSettings

ROOT = Path(__file__).parents[2]
_INNER = "ip link set lo up && ip addr add 9.9.9.9/32 dev lo && exec "
connect = functools.partial(AgentClient, uid=os.getuid())


def settings(
    down: str = "bytes?n={bytes}", up: str = "sink", host: str = "127.0.0.1", **more: float
) -> SpeedTestSettings:
    given = {"bytes": 1_000_000, "seconds": 1, "every_hours": 0} | more
    return SpeedTestSettings(download_url=f"http://{host}/{down}", upload_url=f"http://{host}/{up}", **given)  # type: ignore[arg-type]


class SpeedNode:
    """One node: its agent listens at `path`. `tls`: which ports of the endpoint speak it (see `speed_stand_in`)."""

    def __init__(self, node_id: str, directory: Path, *tls: str) -> None:
        self.id, self.path = node_id, str(directory / f"{node_id}.sock")
        self.process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", _INNER + f'{sys.executable} -m tests.health.speed_stand_in "$@"', "node",
             node_id, self.path, *tls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )  # fmt: skip
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            self.close()
            raise AssertionError("the stand-in node did not start")

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

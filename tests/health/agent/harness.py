"""A real agent process in a network namespace of its own, fed with reports as PID 1 would."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from health.agent.report import Report
from health.agent_client import AgentClient, AgentError

ROOT = Path(__file__).parents[3]
REPORT = Report(
    node="jp3f9a1c",
    probe_name="probe.test",
    link=True,
    reason="",
    dns=("127.0.0.1",),
    kill_switch=True,
    handshake_age_s=None,
)


class AgentProcess:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = str(directory / "agent.sock")
        self.process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-m", "tests.health.agent.run_agent", str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
        )
        self.pushed: list[tuple[float, str, int]] = []
        self.clients: list[AgentClient] = []
        self.closed: list[float] = []

    def report(self, **changes: object) -> None:
        """Send a report: the usual one with `changes`."""
        assert self.process.stdin is not None
        self.process.stdin.write(replace(REPORT, **changes).line())  # type: ignore[arg-type]
        self.process.stdin.flush()

    def mute(self, silent: bool) -> None:
        """Make the tunnel's DNS silent, or answer again."""
        if silent:
            (self.directory / "mute").touch()
        else:
            (self.directory / "mute").unlink()

    def silence(self, *addresses: str) -> None:
        """Make targets silent: what is sent to these addresses vanishes. Without any, all are heard again."""
        rules = "table ip silent\ndelete table ip silent\n"
        if addresses:
            rule = f"ip daddr {{ {', '.join(addresses)} }} drop"
            chain = f"type filter hook input priority filter\n{rule}\n"
            rules += f"table ip silent {{\nchain input {{\n{chain}}}\n}}\n"
        inside = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net"]
        subprocess.run([*inside, "nft", "-f", "-"], input=rules, text=True, check=True)

    async def client(self, within: float = 40.0) -> AgentClient:
        """A connected client; its pushed messages are noted in `pushed`, its end in `closed`."""
        deadline = time.monotonic() + within
        while True:
            client = AgentClient(
                self.path,
                uid=os.getuid(),
                on_state=lambda state, generation: self.pushed.append((time.monotonic(), state, generation)),
                on_close=lambda: self.closed.append(time.monotonic()),
            )
            try:
                await client.connect()
            except AgentError:
                assert time.monotonic() < deadline, "the agent did not come up"
                assert self.process.poll() is None, "the agent ended"
                await asyncio.sleep(0.02)
            else:
                self.clients.append(client)
                return client

    async def up(self) -> AgentClient:
        """A client of an agent whose tunnel is up."""
        client = await self.client()
        await until(lambda: self._is_up(client))
        return client

    async def _is_up(self, client: AgentClient) -> bool:
        return (await client.hello()).tunnel == "up"

    def close(self) -> None:
        for client in self.clients:
            client.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


async def until(condition, within: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    """Wait until the coroutine function `condition` returns something true; an agent that is late is asked again."""
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(AgentError):
            if await condition():
                return
        assert time.monotonic() < deadline, f"not within {within} s"
        await asyncio.sleep(0.02)

"""Exits with the real agent, in one network namespace of their own with the origins that connections end at.

The way to an origin is as short as a peer's. Only what a container adds around the agent is missing: the VPN
program and PID 1, whose one report the agent gets from here.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from health.agent import protocol
from health.agent.report import Report
from tests.bench.children import PROXY_UID, BenchError, Child
from tests.bench.clients import Load

COUNTRY = "jp"
# What an exit container sets (architecture, section 5).
_NAMESPACE = """ip link set lo up
echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range
echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse
exec "$0" "$@"
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """What was made ready: an interpreter that the product's user can run, and the load generator."""

    python: Path
    load: Load


class Origin:
    """Where connections end. `inside` enters, or makes, the namespace it is to live in."""

    def __init__(self, tools: Tools, directory: Path, inside: Sequence[str] = (), *more: str) -> None:
        user = None if inside else PROXY_UID
        self.child = Child([*inside, tools.load.program, "origin", *more], directory, user=user, pipes=True)
        line = self.child.output.readline()
        if not line:
            self.child.close()
            raise BenchError(f"the origin did not start: {self.child.log.read_text()}")
        self.target = f"127.0.0.1:{json.loads(line)['port']}"

    def close(self) -> None:
        self.child.close()


class Exits:
    """`count` exits of one country: real agents in one network namespace, beside `origins` origins.

    Members of `group` may ask the agents, as in a container's directory.
    """

    def __init__(
        self, tools: Tools, directory: Path, environment: dict[str, str], *, group: int, count: int, origins: int
    ) -> None:
        self.ids = [f"{COUNTRY}{number:06x}" for number in range(1, count + 1)]
        self._directory = directory
        self._environment = environment
        self._group = group
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as made:
            first = Origin(tools, directory, ("unshare", "-n", "sh", "-ec", _NAMESPACE), "-names")
            made.callback(first.close)
            self._enter = ("nsenter", f"--net=/proc/{first.child.pid}/ns/net")
            rest = [Origin(tools, directory, self._enter) for _ in range(origins - 1)]
            for origin in rest:
                made.callback(origin.close)
            self.targets = [origin.target for origin in (first, *rest)]
            self.agents = [self._agent(tools, node, made) for node in self.ids]
            for node, agent in zip(self.ids, self.agents, strict=True):
                agent.wait_for(self.socket(node).exists)
            self._stack = made.pop_all()

    def socket(self, node: str) -> Path:
        return self._directory / node / protocol.SOCKET_NAME

    def close(self) -> None:
        self._stack.close()

    def _agent(self, tools: Tools, node: str, made: contextlib.ExitStack) -> Child:
        home = self._directory / node
        home.mkdir(mode=0o750)
        os.chown(home, protocol.AGENT_UID, self._group)
        identity = ["setpriv", f"--reuid={protocol.AGENT_UID}", f"--regid={self._group}", "--clear-groups"]
        program: list[str | Path] = [tools.python, "-P", "-m", "health.agent.agent", home / protocol.SOCKET_NAME]
        agent = Child(
            [*self._enter, *identity, "--inh-caps=-all", "--pdeathsig=KILL", *program],
            self._directory,
            user=None,
            environment=self._environment,
            pipes=True,
        )
        made.callback(agent.close)
        connected = Report(node, "probe.test", True, "", ("127.0.0.1",), True, None)
        agent.tell(connected.line().decode().strip())
        return agent

"""Connections to agents: what is kept of what they say, over a real agent socket."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control.agents import Agents
from health.agent import protocol
from health.agent_client import AgentClient
from health.model import Tunnel

NODE = "jp000001"


class AgentServer:
    """Answers hello on a SOCK_SEQPACKET socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tunnel, self.generation, self.reason = "starting", 0, "no handshake yet"
        self.greeted = 0
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []

    def start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(str(self.path))
        self._listener.listen()
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def push(self, op: str, generation: int) -> None:
        self.tunnel, self.generation = op, generation
        for connection in self._connections:
            connection.send(protocol.encode({"op": op, "generation": generation}))

    def stop(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in [*self._connections, *([self._listener] if self._listener else [])]:
            loop.remove_reader(sock)
            sock.close()
        self._connections, self._listener = [], None
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        assert self._listener is not None
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        self._connections.append(connection)
        asyncio.get_running_loop().add_reader(connection, self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        data = connection.recv(65536)
        if not data:
            asyncio.get_running_loop().remove_reader(connection)
            self._connections.remove(connection)
            connection.close()
            return
        asked = protocol.decode(data)
        self.greeted += 1
        hello = {"node": NODE, "tunnel": self.tunnel, "generation": self.generation, "families": ["inet"]}
        connection.send(protocol.encode({"id": asked["id"], **hello, "kill_switch": True, "reason": self.reason}))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AgentServer]:
    found = AgentServer(tmp_path / "agent.sock")
    yield found
    found.stop()


class Follower:
    """Agents with a counter of changes and a clock that stands still unless moved."""

    def __init__(self, path: Path) -> None:
        self.now, self.changes = 100.0, 0
        connect: Any = partial(AgentClient, uid=os.getuid())
        self.agents = Agents(lambda _: str(path), self._changed, lambda: self.now, connect)

    def _changed(self) -> None:
        self.changes += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        self.agents.follow([NODE])
        while not condition():
            assert time.monotonic() < deadline, self.agents.views
            self.agents.follow([NODE])
            await asyncio.sleep(0.01)

    @property
    def view(self) -> Any:
        return self.agents.views[NODE]


@pytest.fixture
async def follower(tmp_path: Path) -> AsyncIterator[Follower]:
    found = Follower(tmp_path / "agent.sock")
    yield found
    await found.agents.close()


async def test_from_not_there_to_up_to_gone_and_back(server: AgentServer, follower: Follower) -> None:
    await follower.until(lambda: follower.view.reason.startswith("agent not reachable"))
    assert (follower.view.tunnel, follower.view.since) == (Tunnel.STARTING, 100.0)
    follower.now = 101.0
    server.start()
    await follower.until(lambda: follower.view.reason == "no handshake yet")
    assert follower.view.since == 100.0
    assert follower.changes == 0
    server.push("up", 1)
    await follower.until(lambda: follower.view.tunnel is Tunnel.UP)
    assert (follower.view.generation, follower.view.since, follower.changes) == (1, 101.0, 1)
    client = follower.agents.client(NODE)
    assert client is not None
    follower.now = 105.0
    server.stop()
    await follower.until(lambda: follower.view.tunnel is Tunnel.DOWN)
    assert (follower.view.since, follower.view.generation) == (105.0, 1)
    assert follower.agents.client(NODE) is None
    follower.now = 107.0
    server.start()
    await follower.until(lambda: follower.view.tunnel is Tunnel.UP)
    assert follower.view.since == 107.0


async def test_a_new_generation_is_a_new_moment(server: AgentServer, follower: Follower) -> None:
    server.start()
    server.tunnel, server.generation = "up", 1
    await follower.until(lambda: follower.view.tunnel is Tunnel.UP)
    follower.now = 110.0
    server.push("up", 2)
    await follower.until(lambda: follower.view.generation == 2)
    assert follower.view.since == 110.0


async def test_down_lasts_since_it_began(server: AgentServer, follower: Follower) -> None:
    server.start()
    server.tunnel, server.generation = "up", 1
    await follower.until(lambda: follower.view.tunnel is Tunnel.UP)
    follower.now = 110.0
    server.push("down", 1)
    await follower.until(lambda: follower.view.tunnel is Tunnel.DOWN)
    follower.now = 120.0
    server.reason = "no handshake for 20 s"
    await follower.until(lambda: follower.view.reason == "no handshake for 20 s")
    assert follower.view.since == 110.0


async def test_one_that_is_up_is_left_alone(server: AgentServer, follower: Follower) -> None:
    server.start()
    server.tunnel, server.generation = "up", 1
    await follower.until(lambda: follower.view.tunnel is Tunnel.UP)
    greeted = server.greeted
    for _ in range(5):
        follower.agents.follow([NODE])
        await asyncio.sleep(0.01)
    assert server.greeted == greeted


async def test_who_is_not_followed_any_more_is_let_go(server: AgentServer, follower: Follower) -> None:
    server.start()
    server.tunnel, server.generation = "up", 1
    await follower.until(lambda: follower.view.tunnel is Tunnel.UP)
    follower.agents.follow([])
    assert follower.agents.views == {}
    assert follower.agents.client(NODE) is None
    changes = follower.changes
    with contextlib.suppress(OSError):
        server.push("down", 1)
    await asyncio.sleep(0.02)
    assert follower.changes == changes

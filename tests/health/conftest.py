"""Records, registries and stand-in agents for the tests of this folder."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from health.config import RedisSettings
from health.model import Node, NodeKind, NodeStatus
from health.registry import Registry


@pytest.fixture
def make_node() -> Callable[..., Node]:
    """A serving vpn node of machine `m1`; fields by name."""

    def make(node_id: str = "jp3f9a1c", **fields: Any) -> Node:
        given: dict[str, Any] = {
            "country": node_id[:2],
            "kind": NodeKind.VPN,
            "machine": "m1",
            "status": NodeStatus.SERVING,
        }
        return Node(id=node_id, **(given | fields))

    return make


@pytest.fixture
async def registry(redis_url: str) -> AsyncIterator[Registry]:
    """On the shared Redis, with a deadline that a busy machine keeps."""
    opened = Registry.open(RedisSettings(url=redis_url, timeout=2))
    yield opened
    await opened.close()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """The shared Redis, past the registry."""
    client = Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


@pytest.fixture
async def own_registry(redis_server: Any) -> AsyncIterator[Registry]:
    """On this test's own Redis, with the time-out used in earnest."""
    opened = Registry.open(RedisSettings(url=redis_server.url))
    yield opened
    await opened.close()


class StandInAgent:
    """An agent written by hand: answers each request with what `answers` says, wrong as it may be.

    `answers[op]` is a function of the request that returns the datagrams to send: a dict (gets version and id) or
    bytes, or a pair of one of these and the descriptors beside it. None closes the connection.
    """

    def __init__(self, path: str, node: str) -> None:
        self.path = path
        self.sample: dict[str, Any] = {"tunnel": "up", "generation": 1, "kill_switch": True, "probe_ms": 20.0}
        self.hello: dict[str, Any] = {"node": node, "tunnel": "up", "generation": 1, "families": ["inet"]}
        self.hello["kill_switch"] = True
        self.answers: dict[str, Callable[[dict[str, Any]], Sequence[Any]]] = {
            "hello": lambda _: [self.hello],
            "sample": lambda _: [{"sample": self.sample}],
        }
        self.asked: list[str] = []
        self.peers: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._listener.bind(self.path)
        self._listener.listen()
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Die: every connection ends and nobody listens."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            os.unlink(self.path)
        for peer in list(self.peers):
            self._hang_up(peer)

    def push(self, message: Any, fds: Sequence[int] = ()) -> None:
        for peer in self.peers:
            self._send(peer, message, fds, {})

    def _accept(self) -> None:
        assert self._listener is not None
        peer, _ = self._listener.accept()
        peer.setblocking(False)
        self.peers.append(peer)
        asyncio.get_running_loop().add_reader(peer, self._serve, peer)

    def _serve(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self._hang_up(peer)
            return
        request = json.loads(data)
        self.asked.append(request["op"])
        for answer in self.answers[request["op"]](request):
            if answer is None:
                self._hang_up(peer)
                return
            message, fds = answer if isinstance(answer, tuple) else (answer, ())
            self._send(peer, message, fds, {"id": request["id"]})

    def _send(self, peer: socket.socket, message: Any, fds: Sequence[int], fixed: dict[str, Any]) -> None:
        data = message if isinstance(message, bytes) else json.dumps({"v": 1, **fixed, **message}).encode()
        with suppress(OSError):
            socket.send_fds(peer, [data], list(fds))

    def _hang_up(self, peer: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(peer)
        self.peers.remove(peer)
        peer.close()


@pytest.fixture
async def make_agent(tmp_path: Path) -> AsyncIterator[Callable[..., StandInAgent]]:
    """Starts stand-in agents, each on a socket of its own."""
    made: list[StandInAgent] = []

    def make(node: str = "jp3f9a1c", *, start: bool = True) -> StandInAgent:
        agent = StandInAgent(str(tmp_path / f"{node}-{len(made)}.sock"), node)
        made.append(agent)
        if start:
            agent.start()
        return agent

    yield make
    for agent in made:
        agent.stop()

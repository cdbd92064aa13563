"""The agent's socket, with real peers on it, in one process."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from health.agent import protocol
from health.agent.server import Peer, Server


class Echo:
    """Answers every message with itself."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.peers: list[Peer] = []

    def __call__(self, peer: Peer, message: dict[str, Any]) -> None:
        self.seen.append(message)
        self.peers.append(peer)
        peer.send({"id": message.get("id")})


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def server(echo: Echo, tmp_path: Path) -> AsyncIterator[Server]:
    opened = Server(echo, max_peers=3)
    opened.listen(str(tmp_path / "s"))
    yield opened
    opened.close()


def connect(tmp_path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    sock.connect(str(tmp_path / "s"))
    return sock


async def receive(sock: socket.socket) -> bytes:
    async with asyncio.timeout(20):
        return await asyncio.get_running_loop().sock_recv(sock, 65536)


async def ask(sock: socket.socket, message: dict[str, Any]) -> dict[str, Any]:
    sock.send(protocol.encode(message))
    return protocol.decode(await receive(sock))


async def test_peers_are_answered_and_told(server: Server, tmp_path: Path) -> None:
    with connect(tmp_path) as one, connect(tmp_path) as two:
        assert (await ask(one, {"id": 1}))["id"] == 1
        assert (await ask(two, {"id": 2}))["id"] == 2
        server.broadcast({"op": "down", "generation": 4})
        for sock in (one, two):
            assert protocol.decode(await receive(sock)) == {"v": 1, "op": "down", "generation": 4}
        assert server.peers == 2


async def test_one_too_many_is_closed_and_makes_room_later(server: Server, tmp_path: Path) -> None:
    kept = [connect(tmp_path) for _ in range(3)]
    for sock in kept:
        await ask(sock, {"id": 1})
    with connect(tmp_path) as extra:
        assert await receive(extra) == b""
    kept.pop().close()
    while server.peers == 3:
        await asyncio.sleep(0.01)
    with connect(tmp_path) as next_one:
        assert (await ask(next_one, {"id": 9}))["id"] == 9
    for sock in kept:
        sock.close()


@pytest.mark.parametrize(
    "datagram", [b"nonsense", b"[]", b'{"v":2}', b"\xff", b"[" * 4000, b'{"v":1,"x":"' + b"y" * 5000]
)
async def test_who_sends_what_is_not_ours_is_dropped(
    server: Server, echo: Echo, tmp_path: Path, datagram: bytes
) -> None:
    with connect(tmp_path) as sock, connect(tmp_path) as other:
        sock.send(datagram)
        assert await receive(sock) == b""
        assert not echo.seen
        assert (await ask(other, {"id": 1}))["id"] == 1


async def test_descriptors_that_a_peer_sends_go_nowhere(server: Server, tmp_path: Path) -> None:
    with connect(tmp_path) as sock:
        await ask(sock, {"id": 1})
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            socket.send_fds(sock, [protocol.encode({"id": 2})], [0, 1])
            assert protocol.decode(await receive(sock))["id"] == 2
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_peer_that_does_not_read_is_dropped_and_holds_nobody_up(
    server: Server, echo: Echo, tmp_path: Path
) -> None:
    with connect(tmp_path) as silent, connect(tmp_path) as other:
        await ask(silent, {"id": 1})
        await ask(other, {"id": 1})
        slow = echo.peers[0]
        for _ in range(10_000):
            if server.peers == 1:
                break
            slow.send({"id": 1, "x": "y" * 1000})
        assert server.peers == 1
        slow.send({"id": 2})
        slow.close()
        assert (await ask(other, {"id": 3}))["id"] == 3


async def test_unread_answers_are_counted(server: Server, echo: Echo, tmp_path: Path) -> None:
    with connect(tmp_path) as sock:
        await ask(sock, {"id": 1})
        peer = echo.peers[0]
        assert peer.unread == 0
        for _ in range(10):
            peer.send({"id": 1}, [0])
        assert peer.unread > 1000
        for _ in range(10):
            await receive(sock)
        assert peer.unread == 0
    await asyncio.sleep(0.05)
    assert peer.unread == 0


async def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as earlier:
        earlier.bind(str(tmp_path / "s"))
    server = Server(Echo())
    server.listen(str(tmp_path / "s"))
    with connect(tmp_path) as sock:
        assert (await ask(sock, {"id": 1}))["id"] == 1
    server.close()
    server.close()


async def test_without_descriptors_it_pauses_and_goes_on(server: Server, echo: Echo, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connect(tmp_path) as sock:
        held: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, hard))
        try:
            try:
                while True:
                    held.append(os.dup(0))
            except OSError:
                pass
            began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            await asyncio.sleep(0.5)
            assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - began < 0.2
            assert not echo.seen
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await ask(sock, {"id": 1}))["id"] == 1

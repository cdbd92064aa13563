"""A connection that was made counts on its link until it is let go, in whichever way."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.dialled import Dialled
from gateway.links import DirectLink
from gateway.poller import READ, Poller
from health.model import Node, NodeKind, NodeStatus

NODE = Node(id="jp000001", country="jp", kind=NodeKind.DIRECT, machine="here", status=NodeStatus.SERVING)


@pytest.fixture
async def made() -> AsyncIterator[tuple[Dialled, socket.socket]]:
    poller = Poller(asyncio.get_running_loop())
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM)
        sock.connect(server.getsockname())
        sock.setblocking(False)
        target, _ = server.accept()
    link = DirectLink(NODE.id)
    dialled = Dialled(poller, NODE, link, sock, 0.01, events=0)
    link.tunnels.add(dialled)
    with target:
        yield dialled, target
    dialled.abort()
    poller.close()


async def test_released_it_closes_and_counts_no_more(made: tuple[Dialled, socket.socket]) -> None:
    dialled, target = made
    assert (dialled.closed, dialled.link.in_flight) == (False, 1)
    for _ in range(2):
        dialled.release()
        assert (dialled.closed, dialled.link.in_flight) == (True, 0)
    target.settimeout(5)
    assert target.recv(1) == b""


async def test_aborted_it_is_reset(made: tuple[Dialled, socket.socket]) -> None:
    dialled, target = made
    for _ in range(2):
        dialled.abort()
        assert (dialled.closed, dialled.link.in_flight) == (True, 0)
    target.settimeout(5)
    with pytest.raises(ConnectionResetError):
        target.recv(1)


async def test_awaited_it_takes_events_that_nobody_reads_for(made: tuple[Dialled, socket.socket]) -> None:
    dialled, target = made
    target.sendall(b"hello")
    assert await dialled.channel.read() == b"hello"
    assert dialled.channel is dialled.channel
    assert dialled.events == READ

"""A socket that can be awaited."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.channel import AbortedError, Channel
from gateway.poller import Poller


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    made = Poller(asyncio.get_running_loop())
    yield made
    made.close()


def fresh() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    return sock


async def test_connect_write_and_read(poller: Poller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Channel(poller, fresh()) as channel:
            assert (await channel.connect(listener.getsockname()))[0] == 0
            peer, _ = listener.accept()
            with peer:
                await channel.write(b"question")
                assert peer.recv(100) == b"question"
                assert channel.idle
                reading = asyncio.create_task(channel.read())
                await asyncio.sleep(0)
                peer.sendall(b"answer")
                assert await reading == b"answer"
                peer.shutdown(socket.SHUT_WR)
                assert await channel.read() == b""
                assert not channel.idle
        assert channel.closed


async def test_a_refusal_is_an_errno(poller: Poller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with Channel(poller, fresh()) as channel:
        assert (await channel.connect(address))[0] == errno.ECONNREFUSED


async def test_a_large_write_waits_for_the_reader(poller: Poller) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    data = bytes(range(256)) * 16384
    with far, Channel(poller, near) as channel:
        writing = asyncio.create_task(channel.write(data))
        received = b""
        while len(received) < len(data):
            received += await asyncio.get_running_loop().sock_recv(far, 1 << 20)
        await writing
    assert received == data


async def test_abort_wakes_whoever_waits(poller: Poller) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with far:
        channel = Channel(poller, near)
        reading = asyncio.create_task(channel.read())
        await asyncio.sleep(0)
        channel.abort()
        with pytest.raises(AbortedError):
            await reading
        with pytest.raises(AbortedError):
            await channel.write(b"x")
        channel.abort()
        channel.close()

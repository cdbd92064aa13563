"""Connections that are opened and reset, on loopback."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from health.agent.connect import Connects

Done = list[tuple[int, str, bool]]


@pytest.fixture
def done() -> Done:
    return []


@pytest.fixture
async def connects(done: Done) -> AsyncIterator[Connects]:
    made = Connects(lambda number, target, reached: done.append((number, target, reached)), 0.3)
    yield made
    made.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


async def wait(done: Done, count: int = 1) -> None:
    async with asyncio.timeout(20):
        while len(done) < count:
            await asyncio.sleep(0.005)


def _of(sock: socket.socket) -> str:
    return "{}:{}".format(*sock.getsockname())


async def test_who_accepts_was_reached_and_is_reset(connects: Connects, done: Done, listener: socket.socket) -> None:
    connects.dial(7, _of(listener))
    await wait(done)
    assert done == [(7, _of(listener), True)]
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(20)
        with pytest.raises(ConnectionResetError):
            peer.recv(1)


async def test_who_refuses_was_reached(connects: Connects, done: Done, listener: socket.socket) -> None:
    target = _of(listener)
    listener.close()
    connects.dial(1, target)
    assert not done, "never in the middle of dialling"
    await wait(done)
    assert done == [(1, target, True)]


async def test_what_cannot_be_sent_was_not(connects: Connects, done: Done) -> None:
    connects.dial(1, "255.255.255.255:9")
    await wait(done)
    assert done == [(1, "255.255.255.255:9", False)]


async def test_silence_is_told_to_nobody_and_leaves_nothing(connects: Connects, done: Done) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        await asyncio.sleep(0.05)
        before = len(os.listdir("/proc/self/fd"))
        connects.dial(1, _of(full))
        assert len(os.listdir("/proc/self/fd")) == before + 1
        await asyncio.sleep(0.4)
        assert len(os.listdir("/proc/self/fd")) == before
        for filler in fillers:
            filler.close()
    assert not done

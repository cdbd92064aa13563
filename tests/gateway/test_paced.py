import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.bucket import Bucket
from gateway.channel import Channel
from gateway.paced import write_paced
from gateway.poller import Poller

DATA = bytes(range(256)) * 400


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    poller = Poller(asyncio.get_running_loop())
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)
    with Channel(poller, pair[0]) as one, Channel(poller, pair[1]) as other:
        yield one, other
    poller.close()


@pytest.mark.parametrize("rate", [None, 200_000.0])
async def test_everything_arrives_and_not_before_its_time(ends: tuple[Channel, Channel], rate: float | None) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    bucket = Bucket(rate, started) if rate else None
    writing = asyncio.create_task(write_paced(ends[0], DATA, bucket))
    received = b""
    while len(received) < len(DATA):
        received += await ends[1].read()
    await writing
    assert received == DATA
    if rate:  # a quarter of a second's worth may pass at once
        assert loop.time() - started >= 0.9 * (len(DATA) / rate - 0.25)
    else:
        assert loop.time() - started < 5


async def test_an_aborted_channel_ends_it(ends: tuple[Channel, Channel]) -> None:
    writing = asyncio.create_task(write_paced(ends[0], DATA, Bucket(1000.0, 0.0)))
    await asyncio.sleep(0)
    ends[0].abort()
    with pytest.raises(OSError):  # noqa: PT011 - AbortedError
        await asyncio.wait_for(writing, 5)

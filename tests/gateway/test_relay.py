"""The relay between two socket pairs, in this process."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.channel import Channel
from gateway.poller import Poller
from gateway.relay import PipePool, Relay
from health.reasons import Reason


class Tunnel:
    """A relay, and the far ends of its two sockets."""

    def __init__(self, poller: Poller, pipes: PipePool) -> None:
        self.client, near_client = _pair()
        self.target, near_target = _pair()
        self.finished = asyncio.get_running_loop().create_future()
        self.relay = Relay(
            poller,
            Channel(poller, near_client),
            Channel(poller, near_target),
            pipes,
            memoryview(bytearray(256 * 1024)),
            lambda relay: self.finished.set_result(relay.reason),
        )

    async def end(self) -> Reason:
        return await asyncio.wait_for(asyncio.shield(self.finished), 5)

    def close(self) -> None:
        self.relay.abort()
        self.client.close()
        self.target.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    far.setblocking(False)
    near.setblocking(False)
    return far, near


@pytest.fixture
async def tunnel() -> AsyncIterator[Tunnel]:
    poller = Poller(asyncio.get_running_loop())
    made = Tunnel(poller, PipePool())
    yield made
    made.close()
    poller.close()


async def read_all(sock: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    while chunk := await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 5):
        data += chunk
    return bytes(data)


async def test_early_bytes_go_first(tunnel: Tunnel) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(tunnel.client, b"second")
    tunnel.relay.start(b"first ")
    await loop.sock_sendall(tunnel.client, b" third")
    tunnel.client.shutdown(socket.SHUT_WR)
    assert await read_all(tunnel.target) == b"first second third"


async def test_each_side_ends_by_itself(tunnel: Tunnel) -> None:
    loop = asyncio.get_running_loop()
    tunnel.relay.start()
    tunnel.client.shutdown(socket.SHUT_WR)
    assert await read_all(tunnel.target) == b""
    assert not tunnel.finished.done()
    await loop.sock_sendall(tunnel.target, b"the answer arrives whole")
    tunnel.target.close()
    assert await read_all(tunnel.client) == b"the answer arrives whole"
    assert await tunnel.end() is Reason.OK
    assert (tunnel.relay.bytes_up, tunnel.relay.bytes_down) == (0, 24)


@pytest.mark.parametrize("pipes", [0, 4])
async def test_bulk_is_carried_whole_with_and_without_splice(pipes: int) -> None:
    loop = asyncio.get_running_loop()
    poller = Poller(loop)
    pool = PipePool(pipes)
    tunnel = Tunnel(poller, pool)
    tunnel.relay.start()
    sent = os.urandom(1 << 20) * 24

    async def send() -> None:
        await loop.sock_sendall(tunnel.target, sent)
        tunnel.target.close()

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.1)  # the relay runs into a reader that does not read yet
    assert await read_all(tunnel.client) == sent
    await sending
    tunnel.client.close()
    assert await tunnel.end() is Reason.OK
    assert tunnel.relay.bytes_down == len(sent)
    assert pipes == 0 or pool.take() is not None
    poller.close()


async def test_a_stopped_reader_stops_the_writer(tunnel: Tunnel) -> None:
    tunnel.relay.start()
    total = 0
    for _ in range(2000):
        try:
            total += tunnel.client.send(bytes(65536))
        except BlockingIOError:
            await asyncio.sleep(0.001)
    assert total < 30 << 20
    assert not tunnel.finished.done()


@pytest.mark.parametrize(("who", "reason"), [("client", Reason.CLIENT_RESET), ("target", Reason.TARGET_RESET)])
async def test_a_reset_passes_on(tunnel: Tunnel, who: str, reason: Reason) -> None:
    tunnel.relay.start()
    broken, other = (tunnel.client, tunnel.target) if who == "client" else (tunnel.target, tunnel.client)
    broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    broken.close()
    with pytest.raises(ConnectionResetError):
        await read_all(other)
    assert await tunnel.end() is reason


async def test_a_reset_after_the_end_is_noticed(tunnel: Tunnel) -> None:
    tunnel.relay.start()
    tunnel.client.shutdown(socket.SHUT_WR)
    assert await read_all(tunnel.target) == b""
    tunnel.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    tunnel.client.close()
    assert await tunnel.end() is Reason.CLIENT_RESET


async def test_abort_resets_both_sides_once(tunnel: Tunnel) -> None:
    tunnel.relay.start()
    tunnel.relay.abort(Reason.NODE_LOST)
    tunnel.relay.abort(Reason.SHUTDOWN)
    assert await tunnel.end() is Reason.NODE_LOST
    for side in (tunnel.client, tunnel.target):
        with pytest.raises(ConnectionResetError):
            await read_all(side)


def test_pipes_are_bounded_and_used_again() -> None:
    pool = PipePool(limit=1)
    pipe = pool.take()
    assert pipe is not None
    assert pool.take() is None
    pool.give_back(pipe)
    assert pool.take() == pipe
    pool.discard(pipe)
    again = pool.take()
    assert again is not None
    pool.discard(again)

"""Accepting: who is taken, and what happens at the limit."""

import asyncio
import errno
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway import listener as module
from gateway.listener import ERROR_PAUSE_S, LIMIT_PAUSE_S, Listener
from gateway.metrics import PAUSES, Metrics
from gateway.resources import listening_socket


class Taker:
    """In a worker's place: counts who was accepted and keeps the sockets."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.accepted: list[socket.socket] = []
        self.places = 1000


def welcome(taker: Taker, sock: socket.socket, source: str, destination: tuple[object, int]) -> None:
    assert source == sock.getpeername()[0]
    assert (str(destination[0]), destination[1]) == sock.getsockname()
    taker.metrics.opened()
    taker.accepted.append(sock)


class Clients:
    """Connects, and holds what the listener accepted."""

    def __init__(self, most: int, host: str = "127.0.0.1") -> None:
        self.taker = Taker()
        self.metrics, self.accepted = self.taker.metrics, self.taker.accepted
        sock = listening_socket(f"{host}:0")
        self.address = ("127.0.0.1", sock.getsockname()[1])
        self.listener = Listener(sock, self.taker, most)  # type: ignore[arg-type]
        self.dialled: list[socket.socket] = []

    def dial(self, count: int) -> None:
        self.dialled += [socket.create_connection(self.address, timeout=5) for _ in range(count)]

    def end(self, count: int) -> None:
        for _ in range(count):
            self.accepted.pop().close()
            self.metrics.closed()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.accepted) != count:
                await asyncio.sleep(0.005)

    def pauses(self, reason: str) -> float:
        return self.metrics.counters()[PAUSES].get((reason,), [0])[0]


@pytest.fixture
async def clients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clients]:
    monkeypatch.setattr(module, "welcome", welcome)
    made = Clients(getattr(request, "param", 1000))
    yield made
    made.listener.close()
    for sock in (*made.accepted, *made.dialled):
        sock.close()


async def test_many_at_once_are_all_accepted(clients: Clients) -> None:
    clients.dial(100)
    await clients.until(100)
    assert all(not sock.getblocking() for sock in clients.accepted)


@pytest.mark.parametrize("clients", [5], indirect=True)
async def test_at_the_limit_clients_wait_and_come_when_others_end(clients: Clients) -> None:
    clients.dial(8)
    await clients.until(5)
    await asyncio.sleep(10 * LIMIT_PAUSE_S)
    assert len(clients.accepted) == 5
    assert clients.pauses("limit") >= 1
    clients.end(2)
    await clients.until(5)
    clients.end(5)
    await clients.until(1)


@pytest.mark.parametrize("clients", [1], indirect=True)
async def test_at_the_limit_it_does_not_spin(clients: Clients) -> None:
    clients.dial(3)
    await clients.until(1)
    before, cpu, began = clients.pauses("limit"), time.process_time(), time.monotonic()
    await asyncio.sleep(0.5)
    wall = time.monotonic() - began
    assert clients.pauses("limit") - before <= wall / LIMIT_PAUSE_S + 1
    assert time.process_time() - cpu < 0.2 * wall


@pytest.mark.parametrize("clients", [1], indirect=True)
async def test_another_worker_takes_who_waits_here(clients: Clients) -> None:
    other = Taker()
    clients.dial(1)
    await clients.until(1)
    sock = socket.socket(fileno=os.dup(clients.listener._sock.fileno()))
    listener = Listener(sock, other, 10)  # type: ignore[arg-type]
    clients.dial(4)
    async with asyncio.timeout(20):
        while len(other.accepted) < 4:
            await asyncio.sleep(0.005)
    listener.close()
    for sock in other.accepted:
        sock.close()
    clients.end(1)
    clients.dial(1)  # the socket itself still listens
    await clients.until(1)


@pytest.fixture
def own_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_without_descriptors_it_pauses_and_goes_on(clients: Clients, own_limit: None) -> None:
    clients.dial(1)
    await clients.until(1)
    waiting = socket.socket()
    waiting.setblocking(False)
    clients.dialled.append(waiting)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    hoard: list[int] = []
    with pytest.raises(OSError, match="Too many open files"):
        hoard.extend(iter(lambda: os.dup(0), -1))
    assert waiting.connect_ex(clients.address) in (0, errno.EINPROGRESS)
    cpu, began = time.process_time(), time.monotonic()
    await asyncio.sleep(0.5)
    wall = time.monotonic() - began
    assert time.process_time() - cpu < 0.2 * wall
    assert 1 <= clients.pauses("descriptors") <= wall / ERROR_PAUSE_S + 3
    assert len(clients.accepted) == 1
    for fd in hoard:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await clients.until(2)


async def test_being_favoured_loses_nobody(clients: Clients) -> None:
    for _ in range(50):
        clients.dial(1)
        clients.listener.favour()
    await clients.until(50)
    clients.listener.favour()
    clients.dial(1)
    await clients.until(51)


async def test_on_all_addresses_each_client_says_which_it_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "welcome", welcome)
    made = Clients(10, "0.0.0.0")
    made.address = ("127.0.0.9", made.address[1])
    made.dial(1)
    await made.until(1)
    made.listener.close()
    for sock in (*made.accepted, *made.dialled):
        sock.close()

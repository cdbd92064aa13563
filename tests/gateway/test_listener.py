"""Accepting: what an accepted socket inherits, how many there may be, and what happens at the limit."""

import asyncio
import errno
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.listener import LIMIT_PAUSE_S, Budget, Listener, listening_socket, raise_descriptor_limit
from gateway.metrics import PAUSES, Metrics


class Clients:
    """Connects, and holds what the listener accepted."""

    def __init__(self, most: int) -> None:
        self.metrics = Metrics()
        self.accepted: list[socket.socket] = []
        sock = listening_socket("127.0.0.1:0")
        self.address = sock.getsockname()
        self.listener = Listener(sock, self.metrics, most, self._take)
        self.dialled: list[socket.socket] = []

    def _take(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        assert peer == sock.getpeername()
        self.metrics.opened()
        self.accepted.append(sock)

    def dial(self, count: int) -> None:
        self.dialled += [socket.create_connection(self.address, timeout=5) for _ in range(count)]

    def end(self, count: int) -> None:
        for _ in range(count):
            self.accepted.pop().close()
            self.metrics.closed()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.accepted) != count:
                await asyncio.sleep(0.005)

    def pauses(self, reason: str) -> float:
        return self.metrics.counters()[PAUSES].get((reason,), [0])[0]


@pytest.fixture
async def clients(request: pytest.FixtureRequest) -> AsyncIterator[Clients]:
    made = Clients(getattr(request, "param", 1000))
    yield made
    made.listener.close()
    for sock in (*made.accepted, *made.dialled):
        sock.close()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_what_is_set_on_the_listening_socket_is_set_on_an_accepted_one(address: str) -> None:
    with listening_socket(address) as sock, socket.create_connection(sock.getsockname()[:2]) as client:
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4
        assert not client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_taken_address_is_named() -> None:
    with listening_socket("127.0.0.1:0") as taken:
        address = "{}:{}".format(*taken.getsockname())
        with pytest.raises(OSError, match=f"cannot listen on {address}: Address already in use"):
            listening_socket(address)


def test_the_budget_leaves_room_for_everything_else() -> None:
    budget = Budget(20_000, pipes=32)
    assert budget.connections == (20_000 - 128 - 1000 - 64) // 2
    assert 2 * budget.connections + budget.stock + 2 * budget.pipes < budget.descriptors
    with pytest.raises(OSError, match="a limit of 128 open files is too low"):
        _ = Budget(128, pipes=32).connections


@pytest.fixture
def own_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_to_the_hard_one(own_limit: None) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    assert raise_descriptor_limit() == min(hard, 1_048_576)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 1_048_576)


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
    other = Metrics()
    taken: list[socket.socket] = []
    clients.dial(1)
    await clients.until(1)
    sock = socket.socket(fileno=os.dup(clients.listener._sock.fileno()))
    listener = Listener(sock, other, 10, lambda sock, _: taken.append(sock))
    clients.dial(4)
    async with asyncio.timeout(5):
        while len(taken) < 4:
            await asyncio.sleep(0.005)
    listener.close()
    for sock in taken:
        sock.close()
    clients.end(1)
    clients.dial(1)  # the socket itself still listens
    await clients.until(1)


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
        while True:
            hoard.append(os.dup(0))
    assert waiting.connect_ex(clients.address) in (0, errno.EINPROGRESS)
    cpu, began = time.process_time(), time.monotonic()
    await asyncio.sleep(0.5)
    assert time.process_time() - cpu < 0.2 * (time.monotonic() - began)
    assert 1 <= clients.pauses("descriptors") <= 8
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

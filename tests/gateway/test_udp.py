"""An association between real sockets of this process, with a direct node."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network

import pytest

from gateway import udp, udp_far
from gateway.bucket import Bucket
from gateway.links import DirectLink
from gateway.ourselves import Ourselves
from gateway.poller import Poller
from gateway.udp import Association
from gateway.udp_far import ExitSockets
from health.reasons import Reason
from tests.conftest import STALL_S

ALLOWED = [ip_network("127.0.0.0/8")]

LOCAL = "127.0.0.1"


def bound(host: str = LOCAL) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((host, 0))
    return sock


def header(peer: tuple[str, int]) -> bytes:
    return bytes(3) + b"\x01" + socket.inet_aton(peer[0]) + peer[1].to_bytes(2)


class World:
    """A client, the association, and one target."""

    def __init__(self, poller: Poller, link: DirectLink, limits: tuple[Bucket | None, Bucket | None], idle: float):
        self.client, self.target, near = bound(), bound(), bound()
        self.out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.relay, self.wanted = near.getsockname(), self.target.getsockname()
        self.drops: Counter[tuple[str, Reason]] = Counter()
        self.ended = asyncio.Event()
        buffer = memoryview(bytearray(256 * 1024))
        self.association = Association(
            poller,
            near,
            (LOCAL, 0),
            ExitSockets(link, {4: self.out}, ALLOWED, buffer),
            buffer,
            limits=limits,
            idle=idle,
            ended=self.ended.set,
            dropped=lambda direction, reason: self.drops.update([(direction, reason)]),
        )

    def send(self, data: bytes, to: tuple[str, int] | None = None) -> None:
        self.client.sendto(header(to or self.wanted) + data, self.relay)

    async def at_target(self) -> tuple[bytes, tuple[str, int]]:
        async with asyncio.timeout(20):
            return await asyncio.get_running_loop().sock_recvfrom(self.target, 65536)  # type: ignore[return-value]

    async def at_client(self) -> bytes:
        async with asyncio.timeout(20):
            return await asyncio.get_running_loop().sock_recv(self.client, 65536)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    def close(self) -> None:
        self.association.close()
        self.client.close()
        self.target.close()


Make = Callable[..., World]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    poller, link = Poller(asyncio.get_running_loop()), DirectLink("zz000001", Ourselves((), ALLOWED))
    made: list[World] = []

    def build(limits: tuple[Bucket | None, Bucket | None] = (None, None), idle: float = 60.0) -> World:
        made.append(World(poller, link, limits, idle))
        return made[-1]

    yield build
    for world in made:
        world.close()
    await link.close()
    poller.close()


async def test_there_and_back(make: Make) -> None:
    world = make()
    world.send(b"hello")
    data, source = await world.at_target()
    assert data == b"hello"
    world.target.sendto(b"answer", source)
    assert await world.at_client() == header(world.wanted) + b"answer"
    assert (world.association.bytes_up, world.association.bytes_down) == (5, 6)
    assert not world.drops


async def test_a_burst_is_carried_whole(make: Make) -> None:
    world = make()
    for number in range(udp.TURNS * 3):  # more than one turn
        world.send(b"%d" % number)
    assert [(await world.at_target())[0] for _ in range(udp.TURNS * 3)] == [b"%d" % n for n in range(udp.TURNS * 3)]


async def test_a_stranger_does_not_claim_it(make: Make) -> None:
    world = make()
    with bound("127.0.0.2") as stranger, bound() as neighbour:
        stranger.sendto(header(world.wanted) + b"x", world.relay)
        neighbour.sendto(b"nonsense from the client's address", world.relay)
        await world.until(lambda: sum(world.drops.values()) == 2)
        assert world.drops == {("up", Reason.CLIENT_FORBIDDEN): 1, ("up", Reason.BAD_REQUEST): 1}
    world.send(b"mine")
    assert (await world.at_target())[0] == b"mine"


async def test_the_one_not_written_to_for_longest_is_forgotten(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_far, "PEERS", 2)
    world = make()
    world.send(b"1")
    _, source = await world.at_target()
    with bound() as second, bound() as third:
        world.send(b"2", second.getsockname())
        world.send(b"1")
        await world.at_target()
        world.send(b"3", third.getsockname())
        await world.until(lambda: world.association.bytes_up == 4)
        second.sendto(b"late", source)
        await world.until(lambda: world.drops == {("down", Reason.TARGET_FORBIDDEN): 1})
        world.target.sendto(b"in time", source)
        assert await world.at_client() == header(world.wanted) + b"in time"


async def test_a_closed_client_port_harms_nobody(make: Make) -> None:
    world = make()
    world.send(b"x")
    _, source = await world.at_target()
    port = world.client.getsockname()
    world.client.close()
    for _ in range(3):
        world.target.sendto(b"answer", source)
        await asyncio.sleep(0.01)
    world.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    world.client.bind(port)
    world.send(b"back again")
    assert (await world.at_target())[0] == b"back again"


async def test_it_ends_when_idle_and_not_before(make: Make) -> None:
    world = make(idle=1.0)
    loop = asyncio.get_running_loop()
    for _ in range(5):
        await asyncio.sleep(0.3)
        world.send(b"x")
    await world.until(lambda: world.association.bytes_up == 5)
    last = loop.time()
    await asyncio.wait_for(world.ended.wait(), 20)
    assert 0.6 < loop.time() - last < 2 * 1.0 + STALL_S
    assert world.association.reason is Reason.IDLE_TIMEOUT
    assert world.out.fileno() == -1


async def test_a_dead_node_ends_it_once(make: Make) -> None:
    world = make()
    world.association.abort()
    assert world.ended.is_set()
    assert world.association.reason is Reason.NODE_LOST
    world.ended.clear()
    world.association.abort()
    world.association.close()
    assert not world.ended.is_set()


async def test_to_close_it_tells_nobody(make: Make) -> None:
    world = make()
    world.association.close()
    assert not world.ended.is_set()
    assert world.association.reason is Reason.OK


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_above_the_limit_is_dropped(make: Make, direction: str) -> None:
    bucket = Bucket(40_000, asyncio.get_running_loop().time())
    world = make(limits=(bucket, None) if direction == "up" else (None, bucket))
    world.send(b"first")
    _, source = await world.at_target()
    for _ in range(40):
        if direction == "up":
            world.send(bytes(1000))
        else:
            world.target.sendto(bytes(1000), source)
    await world.until(lambda: world.drops[direction, Reason.OVERLOADED])
    await world.until(lambda: sum(world.drops.values()) + passed(world, direction) // 1000 == 40)
    assert passed(world, direction) <= 40_000


def passed(world: World, direction: str) -> int:
    return world.association.bytes_up if direction == "up" else world.association.bytes_down

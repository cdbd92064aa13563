"""The node's side of an association: real sockets of this process stand for an upstream's relay."""

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address, ip_network

import pytest

from gateway import udp_far
from gateway.links import Relay
from gateway.poller import Poller
from gateway.udp_far import UpstreamRelay
from gateway.wire import socks_udp
from gateway.wire.base import WireError
from gateway.wire.socks import encode_address
from health.reasons import Reason

ALLOWED = [ip_network("127.0.0.0/8")]


def at(address: str, port: int) -> bytes:
    return encode_address(ip_address(address), port)


def named(name: str, port: int) -> bytes:
    return b"\x03" + bytes([len(name)]) + name.encode() + port.to_bytes(2)


class World:
    """The relay's side of both sockets, and ours."""

    def __init__(self, poller: Poller) -> None:
        self.there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.there.bind(("127.0.0.1", 0))
        self.there.settimeout(20)
        ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ours.bind(("127.0.0.1", 0))
        ours.connect(self.there.getsockname())
        ours.setblocking(False)
        self.there.connect(ours.getsockname())
        self.control, held = socket.socketpair()
        held.setblocking(False)
        self.ours, self.lost = ours, 0
        self.far = UpstreamRelay(poller, Relay(ours, held), ALLOWED, memoryview(bytearray(128 * 1024)))
        self.far.begin(lambda route, held: None, self._ended)

    def _ended(self) -> None:
        self.lost += 1

    def send(self, destination: bytes, data: bytes) -> Reason:
        """Send as an association does; returns what was found about the destination."""
        route = self.far.find(destination, memoryview(data), 0.0)
        if route.sock is not None:
            self.far.send(route, data)
        return route.reason

    def answer(self, datagram: bytes) -> tuple[bytes, int]:
        """What the client is to get of what the relay says."""
        self.there.send(datagram)
        assert select.select([self.ours], [], [], 20)[0]
        got, size = self.far.receive(self.ours)
        return bytes(got), size

    def close(self) -> None:
        self.far.close()
        self.far.close()
        self.there.close()
        self.control.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    poller = Poller(asyncio.get_running_loop())
    made = World(poller)
    yield made
    made.close()
    poller.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_addresses_and_names_are_handed_on_as_they_are(world: World) -> None:
    for destination, told in (
        (at("127.0.0.1", 7), at("127.0.0.1", 7)),
        (at("2606:4700::1111", 53), at("2606:4700::1111", 53)),
        (named("Origin.TEST.", 53), named("origin.test", 53)),
        (named("127.0.0.9", 53), at("127.0.0.9", 53)),  # an address written as a name is one
    ):
        assert world.send(destination, b"data") is Reason.OK
        assert world.there.recv(100) == bytes(3) + told + b"data"
        assert world.answer(bytes(3) + told + b"answer") == (bytes(3) + told + b"answer", 6)


async def test_forbidden_targets_are_never_sent(world: World) -> None:
    for destination in (
        at("10.9.9.9", 7), at("169.254.169.254", 53), at("::ffff:127.0.0.1", 7), at("::1", 7), at("64:ff9b::7f00:1", 7),
        at("127.0.0.1", 7)[:1] + ip_address("192.168.1.1").packed + b"\x00\x07", named("10.9.9.9", 7),
        named("localhost", 53), named("a.localhost", 53), at("8.8.8.8", 25),
    ):  # fmt: skip
        assert world.send(destination, b"x") is Reason.TARGET_FORBIDDEN, destination
    world.there.settimeout(0.05)
    with pytest.raises(TimeoutError):
        world.there.recv(100)
    with pytest.raises(WireError):
        world.send(named("127.1", 7), b"x")


async def test_answers_come_from_where_the_client_wrote_to(world: World) -> None:
    world.send(at("127.0.0.1", 7), b"x")
    for sender in (at("127.0.0.2", 7), at("127.0.0.1", 8), named("origin.test", 7), at("8.8.8.8", 7)):
        with pytest.raises(WireError) as refused:
            world.answer(bytes(3) + sender + b"unasked")
        assert refused.value.reason is Reason.TARGET_FORBIDDEN


async def test_a_name_answers_from_any_public_address_at_its_port(world: World) -> None:
    world.send(named("origin.test", 53), b"x")
    for sender in (at("8.8.8.8", 53), at("127.0.0.3", 53), at("2606:4700::1111", 53), named("origin.test", 53)):
        assert world.answer(bytes(3) + sender + b"answer")[1] == 6
    # A private one: the name led where no client may go.
    for sender in (at("10.9.9.9", 53), at("::1", 53), at("8.8.8.8", 54), named("other.test", 53)):
        with pytest.raises(WireError) as refused:
            world.answer(bytes(3) + sender + b"answer")
        assert refused.value.reason is Reason.TARGET_FORBIDDEN, sender


async def test_garbage_from_the_relay_is_refused(world: World) -> None:
    here = at("127.0.0.1", 7)
    world.send(here, b"x")
    for datagram, reason in (
        (b"", Reason.BAD_REQUEST),
        (bytes(6), Reason.BAD_REQUEST),
        (bytes(3) + here[:-1], Reason.BAD_REQUEST),
        (b"\x00\x00\x01" + here + b"x", Reason.NOT_IMPLEMENTED),
        (b"\x01\x00\x00" + here + b"x", Reason.BAD_REQUEST),
        (bytes(3) + b"\x07" + here[1:], Reason.ADDRESS_UNSUPPORTED),
        (bytes(3) + b"\x03\xff" + b"x" * 20, Reason.BAD_REQUEST),
        (bytes(3) + b"\x03\x03\xff\xff\xff\x00\x07", Reason.TARGET_FORBIDDEN),
    ):
        with pytest.raises(WireError) as refused:
            world.answer(datagram)
        assert refused.value.reason is reason, datagram
    assert world.answer(bytes(3) + here) == (bytes(3) + here, 0)  # a datagram may hold nothing


async def test_what_is_remembered_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_far, "PEERS", 4)
    monkeypatch.setattr(udp_far, "KEPT", 4)
    for number in range(1, 20):
        world.send(at(f"127.0.0.{number}", 7), b"x")
    assert len(world.far._peers) == len(world.far._routes) == 4
    assert world.answer(bytes(3) + at("127.0.0.19", 7) + b"x")[1] == 1
    with pytest.raises(WireError):
        world.answer(bytes(3) + at("127.0.0.1", 7) + b"x")
    for _ in range(100):  # senders without end
        with pytest.raises(WireError):
            world.answer(bytes(3) + at("127.1.0.1", 9) + b"x")
    assert len(world.far._routes) == 4


@pytest.mark.parametrize("how", ["closed", "reset", "chatter"])
async def test_it_ends_with_its_tcp_connection(world: World, how: str) -> None:
    world.control.send(b"a word is nothing")
    await asyncio.sleep(0.05)
    assert not world.lost
    if how == "chatter":
        world.control.setblocking(False)
        sent = 0
        while not world.lost and sent < 10_000_000:
            try:
                sent += world.control.send(bytes(4096))
            except BlockingIOError:
                await asyncio.sleep(0.001)
        assert sent < udp_far.CHATTER_BYTES + 500_000
    elif how == "reset":
        world.control.shutdown(socket.SHUT_RDWR)
    else:
        world.control.close()
    await until(lambda: world.lost)
    assert world.lost == 1


async def test_a_relay_that_is_closed_is_the_nodes_fault(world: World) -> None:
    world.there.close()

    async def send_on() -> None:
        for _ in range(1000):  # the kernel says so for the next one
            world.send(at("127.0.0.1", 7), b"x")
            await asyncio.sleep(0.01)

    with pytest.raises(WireError) as refused:
        await send_on()
    assert refused.value.reason is Reason.NODE_DIAL


async def test_a_datagram_that_does_not_fit_with_its_header(world: World) -> None:
    with pytest.raises(OSError, match="too long"):
        world.send(at("127.0.0.1", 7), bytes(65507))
    world.send(at("127.0.0.1", 7), bytes(65497))
    assert len(world.there.recv(65536)) == 65507
    assert socks_udp.MAX_HEADER > 10

"""What destinations mean, with a node whose names a test decides."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from gateway.destinations import HELD_BYTES, KEPT, NAME_KEPT_S, NAMES_AT_ONCE, Destinations, Route
from gateway.errors import LinkError, LookupFailedError
from gateway.links import Link
from gateway.wire.base import WireError
from health.reasons import Reason

ALLOW = [ip_network("127.0.0.0/8")]


def named(name: str, port: int = 7) -> bytes:
    return b"\x03" + bytes([len(name)]) + name.encode() + port.to_bytes(2)


def at(last: int, port: int = 7) -> bytes:
    return bytes([1, 127, 0, last >> 8, last & 255]) + port.to_bytes(2)


class Names(Link):
    """Answers what it is told to, when it is told to."""

    def __init__(self) -> None:
        super().__init__("jp000001")
        self.asked: list[str] = []
        self.answer: tuple[str, ...] | Exception = ("127.0.0.1",)
        self.open = asyncio.Event()
        self.open.set()

    async def resolve(self, name: str) -> tuple[str, ...]:
        self.asked.append(name)
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class World:
    def __init__(self) -> None:
        self.link = Names()
        self.found: list[tuple[Route, list[bytes]]] = []
        self.out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.destinations = Destinations(
            self.link, {4: self.out}, ALLOW, lambda route, held: self.found.append((route, held))
        )
        self.now = asyncio.get_running_loop().time()

    def find(self, destination: bytes, data: bytes = b"x", later: float = 0.0) -> Route | None:
        return self.destinations.find(destination, memoryview(data), self.now + later)

    async def settled(self) -> tuple[Route, list[bytes]]:
        async with asyncio.timeout(5):
            while not self.found:
                await asyncio.sleep(0)
        return self.found.pop()

    def refused(self, destination: bytes, data: bytes = b"x") -> Reason:
        with pytest.raises(WireError) as caught:
            self.find(destination, data)
        return caught.value.reason


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.destinations.close()
    await asyncio.sleep(0)
    made.out.close()


async def test_a_literal_is_known_at_once(world: World) -> None:
    route = world.find(at(1))
    assert route is not None
    assert (route.sock, route.peer, route.header) == (world.out, ("127.0.0.1", 7), bytes(3) + at(1))
    assert world.find(at(1)) is route
    assert world.link.asked == []


async def test_a_forbidden_or_unreachable_literal_is_a_refusal(world: World) -> None:
    for destination, reason in (
        (b"\x01\x0a\x09\x09\x09\x00\x07", Reason.TARGET_FORBIDDEN),
        (at(1, port=25)[:1] + b"\x08\x08\x08\x08\x00\x19", Reason.TARGET_FORBIDDEN),
        (b"\x04" + bytes(15) + b"\x01\x00\x07", Reason.TARGET_FORBIDDEN),
        (b"\x04\x26\x06\x47\x00" + bytes(11) + b"\x11\x00\x07", Reason.ADDRESS_UNSUPPORTED),
    ):
        route = world.find(destination)
        assert route is not None
        assert (route.sock, route.reason) == (None, reason)


async def test_what_is_no_destination_is_refused(world: World) -> None:
    assert world.refused(at(1, port=0)) is Reason.BAD_REQUEST
    assert world.refused(named("127.1")) is Reason.BAD_REQUEST


async def test_datagrams_wait_together_for_one_look_up(world: World) -> None:
    world.link.open.clear()
    for number in range(3):
        assert world.find(named("a.test"), b"%d" % number) is None
    other = world.find(at(2))
    assert other is not None
    assert other.sock is world.out
    world.link.open.set()
    route, held = await world.settled()
    assert (route.peer, held) == (("127.0.0.1", 7), [b"0", b"1", b"2"])
    assert world.find(named("a.test")) is route
    assert world.link.asked == ["a.test"]


async def test_what_waits_is_bounded(world: World) -> None:
    world.link.open.clear()
    for number in range(NAMES_AT_ONCE):
        world.find(named(f"{number}.test"))
    assert world.refused(named("more.test")) is Reason.OVERLOADED
    assert world.refused(named("0.test"), bytes(HELD_BYTES)) is Reason.OVERLOADED
    for _ in range(HELD_BYTES // len(named("0.test"))):  # those without data count, too
        with contextlib.suppress(WireError):
            world.find(named("0.test"), b"")
    assert world.refused(named("0.test"), b"") is Reason.OVERLOADED
    world.link.open.set()
    for _ in range(NAMES_AT_ONCE):
        await world.settled()
    world.link.open.clear()
    assert world.find(named("more.test"), bytes(HELD_BYTES - 100)) is None  # all of it was given back


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("127.0.0.1", "10.9.9.9"), Reason.TARGET_FORBIDDEN),
        (("::ffff:127.0.0.1",), Reason.TARGET_FORBIDDEN),
        (("2606:4700::1111",), Reason.ADDRESS_UNSUPPORTED),
        (LookupFailedError(Reason.NAME_NOT_FOUND), Reason.NAME_NOT_FOUND),
        (LookupFailedError(Reason.NAME_LOOKUP), Reason.NAME_LOOKUP),
        (LinkError("the agent is gone"), Reason.NODE_DIAL),
    ],
)
async def test_a_name_that_leads_nowhere(world: World, answer: tuple[str, ...] | Exception, reason: Reason) -> None:
    world.link.answer = answer
    world.find(named("a.test"))
    route, held = await world.settled()
    assert (route.sock, route.reason, held) == (None, reason, [b"x"])
    assert world.find(named("a.test")) is route  # remembered: no look-up for every datagram
    assert world.link.asked == ["a.test"]
    assert world.find(named("a.test"), later=5) is None


async def test_a_name_keeps_its_address_while_that_is_an_answer(world: World) -> None:
    world.link.answer = ("127.0.0.1", "127.0.0.2")
    world.find(named("a.test"))
    first, _ = await world.settled()
    for answer, expected in (
        (("127.0.0.2", "127.0.0.1"), "127.0.0.1"),
        (("127.0.0.2", "127.0.0.3"), "127.0.0.2"),
    ):
        assert world.find(named("a.test"), later=NAME_KEPT_S - 1) is not None
        world.link.answer = answer
        assert world.find(named("a.test"), later=NAME_KEPT_S + 5) is None
        route, _ = await world.settled()
        assert route.peer == (expected, 7)
    assert first.peer == ("127.0.0.1", 7)


async def test_a_rebinding_answer_is_judged_again(world: World) -> None:
    world.find(named("a.test"))
    await world.settled()
    world.link.answer = ("10.9.9.9",)
    world.find(named("a.test"), later=NAME_KEPT_S + 5)
    route, _ = await world.settled()
    assert route.reason is Reason.TARGET_FORBIDDEN


async def test_the_table_is_bounded(world: World) -> None:
    first = world.find(at(1))
    for number in range(2, KEPT + 1):
        world.find(at(number))
    assert world.find(at(1)) is first  # used again: it stays, the next one goes
    second = world.find(at(2))
    world.find(at(KEPT + 1))
    assert world.find(at(1)) is first
    assert world.find(at(2)) is second
    for number in range(KEPT + 2, 2 * KEPT + 2):
        world.find(at(number))
    assert world.find(at(1)) is not first


async def test_nothing_is_told_after_the_end(world: World) -> None:
    world.link.open.clear()
    world.find(named("a.test"))
    await asyncio.sleep(0)
    world.destinations.close()
    world.link.open.set()
    await asyncio.sleep(0.01)
    assert world.found == []

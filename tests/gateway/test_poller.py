"""One epoll for all sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial

import pytest

from gateway.poller import READ, WRITE, Poller


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    made = Poller(asyncio.get_running_loop())
    yield made
    made.close()


def pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    return near, far


async def test_each_hears_of_its_own_once(poller: Poller) -> None:
    one, two = pair(), pair()
    heard: dict[str, list[int]] = {"one": [], "two": []}
    poller.watch(one[0].fileno(), heard["one"].append)
    poller.watch(two[0].fileno(), heard["two"].append)
    await asyncio.sleep(0.01)
    assert [len(events) for events in heard.values()] == [1, 1], "it can be written to, once"
    two[1].send(b"x")
    await asyncio.sleep(0.01)
    assert (len(heard["one"]), len(heard["two"])) == (1, 2)
    assert heard["two"][-1] & READ
    for sock in (*one, *two):
        poller.forget(sock.fileno())
        sock.close()


async def test_a_new_handler_hears_of_what_comes_next(poller: Poller) -> None:
    near, far = pair()
    first, second = list[int](), list[int]()
    poller.watch(near.fileno(), first.append)
    far.send(b"x")
    await asyncio.sleep(0.01)
    poller.watch(near.fileno(), second.append)
    await asyncio.sleep(0.01)
    assert first
    assert not second
    far.send(b"y")
    await asyncio.sleep(0.01)
    assert second[0] & READ
    poller.unregister(near.fileno())
    poller.unregister(near.fileno())
    far.send(b"z")
    await asyncio.sleep(0.01)
    assert len(second) == 1
    near.close()
    far.close()


async def test_a_number_used_again_within_a_batch_gets_nothing_of_that_batch(poller: Poller) -> None:
    """Else a new connection would be told that its predecessor's peer has closed."""
    pairs, fresh, heard = [pair(), pair()], list[socket.socket](), list[int]()

    def replace(other: socket.socket, _: int) -> None:
        """Whichever is told first closes the other, and a new socket gets its number."""
        if not fresh:
            number = other.fileno()
            poller.forget(number)
            other.close()
            fresh.extend(pair())
            assert fresh[0].fileno() == number
            poller.watch(number, heard.append)

    for (near, far), (other, _) in zip(pairs, reversed(pairs), strict=True):
        far.shutdown(socket.SHUT_WR)
        poller.watch(near.fileno(), partial(replace, other))
    poller._ready()
    assert fresh
    assert not heard
    await asyncio.sleep(0.01)
    assert heard[0] & WRITE
    assert not heard[0] & READ
    for sock in (*fresh, *(end for both in pairs for end in both)):
        poller.forget(sock.fileno())
        sock.close()


async def test_a_handler_that_fails_holds_nobody_up(poller: Poller, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = pair(), pair()
    heard: list[int] = []

    def broken(_: int) -> None:
        raise ZeroDivisionError

    poller.watch(one[0].fileno(), broken)
    poller.watch(two[0].fileno(), heard.append)
    await asyncio.sleep(0.01)
    assert heard
    assert "event handler failed" in "".join(capsys.readouterr())
    for sock in (*one, *two):
        poller.forget(sock.fileno())
        sock.close()

"""The relay on loopback; before a real VPN server it stands in tests/lab/test_samples.py."""

import asyncio
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from deploy.lab.relay import Relay, rules

ROOT = Path(__file__).parents[3]


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(b"%s from %d" % (data, addr[1]), addr)


@pytest.fixture
async def echo() -> AsyncIterator[tuple[str, int]]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    yield transport.get_extra_info("sockname")
    transport.close()


@pytest.fixture
async def before() -> AsyncIterator[Callable[[Relay], object]]:
    """Opens a relay; a client's socket that speaks to it."""
    made: list[tuple[Relay, socket.socket]] = []

    async def open_(relay: Relay) -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.append((relay, client))
        client.setblocking(False)
        client.connect(("127.0.0.1", relay.open(("127.0.0.1", 0))))
        return client

    yield open_
    for relay, client in made:
        relay.close()
        client.close()


async def said(client: socket.socket, seconds: float = 5) -> bytes:
    async with asyncio.timeout(seconds):
        return await asyncio.get_running_loop().sock_recv(client, 2048)


async def test_what_is_sent_comes_late_and_in_order(echo, before) -> None:  # type: ignore[no-untyped-def]
    client = await before(Relay(echo, delay=0.3))
    began = time.monotonic()
    for number in range(20):
        client.send(b"%d" % number)
    answers = [await said(client) for _ in range(20)]
    assert 0.3 <= time.monotonic() - began < 20 * 0.3 / 2, "side by side"
    assert [int(answer.split()[0]) for answer in answers] == list(range(20))
    assert len({answer.split()[-1] for answer in answers}) == 1, "one client is one client to the server"


async def test_clients_are_told_apart(echo, before) -> None:  # type: ignore[no-untyped-def]
    relay = Relay(echo)
    one = await before(relay)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.connect(one.getpeername())
        one.send(b"one")
        other.send(b"other")
        answers = [await said(one), await said(other)]
    assert [answer.split()[0] for answer in answers] == [b"one", b"other"]
    assert len({answer.split()[-1] for answer in answers}) == 2, "to the server they are two"


async def test_the_lost_are_lost(echo, before) -> None:  # type: ignore[no-untyped-def]
    turn = itertools.cycle((True, False, False))  # of each three questions: lost, passed on, its answer passed back
    client = await before(Relay(echo, delay=0.01, lost=lambda: next(turn)))
    for number in (0, 2, 4):
        client.send(b"%d" % number)
        client.send(b"%d" % (number + 1))
        assert int((await said(client)).split()[0]) == number + 1
    with pytest.raises(TimeoutError):
        await said(client, 0.2)


async def test_a_server_that_is_away_is_no_trouble(echo, before) -> None:  # type: ignore[no-untyped-def]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()
    client = await before(Relay(nobody, delay=0.01))
    for _ in range(3):
        client.send(b"x")
        await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError):
        await said(client, 0.1)


def test_it_puts_its_rules_in_place_and_takes_them_away() -> None:
    """In a network namespace of its own; needs root."""
    script = f"""
import subprocess, sys
relay = subprocess.Popen([{sys.executable!r}, "-m", "deploy.lab.relay", "--port", "9999"], stdout=subprocess.PIPE)
assert relay.stdout.readline() == b"ready\\n"
shown = subprocess.run(["nft", "list", "table", "ip", "vxrelay"], capture_output=True, text=True, check=True).stdout
assert "udp dport 9999 udp dport set" in shown and "udp sport set 9999" in shown, shown
relay.terminate()
assert relay.wait(10) == 0
assert not subprocess.run(["nft", "list", "tables"], capture_output=True, check=True).stdout
"""
    command = ["unshare", "--net", sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_what_comes_from_outside_is_turned_aside() -> None:
    text = rules(51820, 40000)
    assert 'iifname != "lo" udp dport 51820 udp dport set 40000' in text
    assert 'oifname != "lo" udp sport 40000 udp sport set 51820' in text

"""Users, their limits and failed log-ins as clients meet them: real gateways, real Redis, real exits."""

import asyncio
import base64
import contextlib
import os
import secrets
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address

import pytest
from argon2 import PasswordHasher

from gateway.account import credit
from gateway.guesses import FREE
from gateway.supervisor import ANSWER_WITHIN_S
from gateway.wire.sniff import PROXY_V2_SIGNATURE
from health.limits import month_of
from health.model import User
from health.registry import Registry
from tests.gateway.harness import Exit, Gateway, serve, wait_for

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]
PASSWORD = "correct horse"
HASH = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)


class Client:
    """Asks one gateway, with its own sockets."""

    def __init__(self, gateway: Gateway, user: str = "alice", password: str = PASSWORD) -> None:
        self.gateway = gateway
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.auth = f"Proxy-Authorization: Basic {token}\r\n"

    def open(self) -> tuple[int, socket.socket]:
        """Status of a CONNECT to the origin, and the socket."""
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(self.gateway.connect())
            sock.sendall(f"CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n{self.auth}\r\n".encode())
            head = sock.recv(65536)
            assert head, "closed without an answer"
            stack.pop_all()
            return int(head.split()[1]), sock

    def get(self, path: str = "/", header: bytes = b"", source: str | None = None) -> bytes:
        """The whole answer to a GET; nothing where the gateway closed without a word."""
        address = ("127.0.0.1", self.gateway.port)
        got = b""
        with socket.create_connection(address, 20, (source, 0) if source else None) as sock:
            url = f"http://origin.test{path}"
            request = f"GET {url} HTTP/1.1\r\nHost: origin.test\r\n{self.auth}Connection: close\r\n\r\n"
            with contextlib.suppress(ConnectionError):
                sock.sendall(header + request.encode())
                while chunk := sock.recv(65536):
                    got += chunk
        return got

    def status(self, path: str = "/", header: bytes = b"", source: str | None = None) -> int:
        """The status of that answer; 0 without one."""
        return int((self.get(path, header, source).split() or [b"", b"0"])[1])


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.05)


async def until_used(registry: Registry, amount: int) -> None:
    async with asyncio.timeout(30):
        while (await registry.usage(["alice"], month_of(time.time()))).get("alice", 0) < amount:
            await asyncio.sleep(0.05)


Make = Callable[..., Awaitable[list[Gateway]]]


@pytest.fixture
def world(exits: Exits, registry: Registry, gateways: Gateways) -> Make:
    """Makes gateways that alice, with such limits, may use to leave in Japan."""

    async def make(
        count: int = 1, workers: int = 1, settings: dict[str, object] | None = None, **limits: int
    ) -> list[Gateway]:
        await registry.put_user(User(name="alice", password_hash=HASH, **limits))
        given = {"require_auth": True, "workers": workers} | (settings or {})
        made = [gateways(**given) for _ in range(count)]
        await serve(registry, exits("jp000001"))
        for gateway in made:
            await asyncio.to_thread(wait_for, gateway.usable, what="every worker knows the exit")
        return made

    return make


async def test_connections_at_once_over_two_workers(world: Make) -> None:
    (gateway,) = await world(workers=2, max_connections=12)
    alice = Client(gateway)
    await until(lambda: alice.status() == 200)
    with contextlib.ExitStack() as stack:
        held = []
        while len(held) < 60:
            status, sock = await asyncio.to_thread(alice.open)
            stack.enter_context(sock)
            if status == 429:
                break
            assert status == 200
            held.append(sock)
        assert 12 <= len(held) <= 12 + 2 * credit(12)
        await until(lambda: all(alice.status() == 429 for _ in range(20)))  # every worker has heard of all
        refused = await asyncio.to_thread(alice.get)
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After" not in refused  # nobody knows when one of them ends
        while len(held) > 11:
            held.pop().close()
        await until(lambda: alice.status() == 200)


async def test_the_month_is_used_up_for_every_gateway_and_stays_so(world: Make, registry: Registry) -> None:
    first, second = await world(count=2, monthly_bytes=200_000)
    await until(lambda: Client(first).status() == 200)
    for _ in range(40):
        if await asyncio.to_thread(Client(first).status, "/bytes?20000") == 403:
            break
    await until_used(registry, 200_000)
    assert (await registry.usage(["alice"], month_of(time.time())))["alice"] < 2_000_000
    await until(lambda: Client(first).status() == 403)
    await until(lambda: Client(second).status() == 403)
    assert b"used up" in await asyncio.to_thread(Client(first).get)


async def test_what_was_relayed_is_settled_at_shutdown(world: Make, registry: Registry) -> None:
    (gateway,) = await world(monthly_bytes=10**9)
    alice = Client(gateway)
    await until(lambda: alice.status() == 200)
    assert await asyncio.to_thread(alice.status, "/bytes?300000") == 200
    await asyncio.to_thread(gateway.close)
    used = (await registry.usage(["alice"], month_of(time.time())))["alice"]
    assert 300_000 < used < 400_000


async def test_a_flood_of_guesses_slows_its_address_alone(world: Make) -> None:
    (gateway,) = await world()
    alice = Client(gateway)
    await until(lambda: alice.status() == 200)
    guesses = [Client(gateway, password=f"wrong{i}").status for i in range(FREE + 3)]
    statuses = [await asyncio.to_thread(guess) for guess in guesses]
    assert statuses[:FREE] == [407] * FREE
    assert statuses[-1] == 429
    assert await asyncio.to_thread(alice.status) == 200, "verified: from the same address"
    assert await asyncio.to_thread(Client(gateway, "alice-country-jp").status) == 200, "and for another wish"
    elsewhere = Client(gateway, password="wrong")
    assert await asyncio.to_thread(elsewhere.status, "/", b"", "127.0.0.2") == 407
    assert PASSWORD not in gateway.log.read_text()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Another worker has all the clients meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def guess(gateway: Gateway, most: int) -> list[bytes]:
    """Answers to wrong passwords, up to the first that asks for patience."""
    answers: list[bytes] = []
    while len(answers) < most and (not answers or b" 407 " in answers[-1][:16]):
        wrong = Client(gateway, password=secrets.token_hex(8))
        answers.append(await asyncio.to_thread(wrong.get))
    return answers


async def test_two_workers_give_no_more_free_guesses_than_one(world: Make) -> None:
    (gateway,) = await world(workers=2)
    await until(lambda: len(gateway.workers()) == 2 and Client(gateway).status() == 200)
    first, second = gateway.workers()
    before = failed(gateway)
    with stopped(second):
        assert len(await guess(gateway, FREE - 2)) == FREE - 2
    await until(lambda: failed(gateway) == before + FREE - 2 and all_heard(gateway))
    with stopped(first):
        began = time.monotonic()
        answers = await guess(gateway, 2 * FREE)
        # The rest of the free ones, the one that begins the wait, and the refusal; a wait that is over is one more.
        assert 2 + 1 + 1 <= len(answers) <= 2 + 1 + 1 + (time.monotonic() - began)
        assert answers[-1].startswith(b"HTTP/1.1 429 ")
        assert b"\r\nRetry-After: " in answers[-1]
    await until(lambda: failed(gateway) == before + FREE - 2 + len(answers) - 1 and all_heard(gateway))
    with stopped(second):  # at most a wait is over
        assert (await guess(gateway, 2))[-1].startswith(b"HTTP/1.1 429 ")
    os.kill(second, signal.SIGKILL)
    await until(lambda: len(gateway.workers()) == 2 and gateway.ready() and listening(gateway) == 3)
    with stopped(first):  # one that started later was told
        answers = await guess(gateway, 2 * FREE)
        assert len(answers) <= 2
        assert answers[-1].startswith(b"HTTP/1.1 429 ")
    socks = socket.create_connection(("127.0.0.1", gateway.port), 20)
    with socks:
        socks.sendall(b"\x05\x01\x02\x01\x05alice\x05wrong")
        assert b"".join(iter(lambda: socks.recv(100), b"")) == b"\x05\x02\x01\x01"  # SOCKS has no word for it


def failed(gateway: Gateway) -> int:
    """How many log-ins failed; a worker says so after it has told of them."""
    name = 'vpnexit_gateway_refusals_total{reason="auth_failed"} '
    return int(float(next(line.removeprefix(name) for line in gateway.metrics().splitlines() if line.startswith(name))))


def all_heard(gateway: Gateway) -> bool:
    """Every worker has answered, and so has read what it was told before."""
    began = time.monotonic()
    gateway.metrics()
    return time.monotonic() - began < ANSWER_WITHIN_S


def listening(gateway: Gateway) -> int:
    """How many workers have begun to listen so far."""
    return gateway.log.read_text().count('"worker listening"')


async def test_guesses_at_two_workers_in_turn(world: Make) -> None:
    (gateway,) = await world(workers=2)
    await until(lambda: Client(gateway).status() == 200)
    began = time.monotonic()
    answers = await guess(gateway, 4 * FREE)
    assert FREE + 1 <= len(answers) - 1 <= FREE + 3 + (time.monotonic() - began)


async def test_only_listed_client_networks(world: Make) -> None:
    listed = {"allow_clients": ["127.0.0.2/32"], "trusted_proxies": ["127.0.0.3/32"]}
    (gateway,) = await world(settings=listed)
    alice = Client(gateway)
    await until(lambda: alice.status(source="127.0.0.2") == 200)
    assert await asyncio.to_thread(alice.status) == 403
    # Behind a proxy it is the client that counts, not the proxy.
    for client, expected in (("127.0.0.2", 200), ("127.0.0.3", 403)):
        header = f"PROXY TCP4 {client} 127.0.0.8 5555 3128\r\n".encode()
        assert await asyncio.to_thread(alice.status, "/", header, "127.0.0.3") == expected


async def test_the_server_name_and_the_address_say_the_country(world: Make, exits: Exits, registry: Registry) -> None:
    addresses = {"192.0.2.0/24": "us", "192.0.2.77/32": "jp"}
    settings = {"trusted_proxies": ["127.0.0.1/32"], "domain": "example.org", "country_addresses": addresses}
    (gateway,) = await world(settings=settings)
    await serve(registry, exits("us000001"))

    def ask(name: str | None, to: str = "127.0.0.8") -> bytes:
        return Client(gateway).get("/", header(name, to))

    await until(lambda: b"us000001" in ask("proxy-us.example.org"))
    for name, to, node in (
        ("proxy-jp.example.org", "127.0.0.8", b"jp000001"),
        ("proxy-us.example.org", "192.0.2.1", b"us000001"),
        (None, "192.0.2.77", b"jp000001"),
        ("shop.example.net", "192.0.2.1", b"us000001"),
    ):
        assert node in await asyncio.to_thread(ask, name, to)
    contradiction = await asyncio.to_thread(ask, "proxy-jp.example.org", "192.0.2.1")
    assert contradiction.split()[1] == b"400"
    assert b"country jp and for country us" in contradiction
    assert b"unknown country 'xx'" in await asyncio.to_thread(ask, "proxy-xx.example.org")


def header(name: str | None, to: str) -> bytes:
    """A PROXY v2 header, with the authority TLV where there is a `name`."""
    body = ip_address("127.0.0.9").packed + ip_address(to).packed + struct.pack("!HH", 5555, 3128)
    if name is not None:
        body += struct.pack("!BH", 0x02, len(name)) + name.encode()
    return PROXY_V2_SIGNATURE + b"\x21\x11" + struct.pack("!H", len(body)) + body

"""UDP through upstreams and other machines' gateways, as a client meets it: real gateways and a real SOCKS5 server."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.rdatatype
import pytest
from argon2 import PasswordHasher

from deploy import ports
from health.model import Node, NodeStatus, User
from health.registry import Registry
from tests.conftest import STALL_S
from tests.gateway.harness import MACHINE, Exit, Gateway, curl, serve, wait_for
from tests.gateway.udp_client import LOCAL, Client, at, named
from tests.gateway.upstreams import PASSWORD, USER, Scripted, dante, put_password, saying, serving, tinyproxy

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]
THERE = "elsewhere"
INTERNAL = "http://vpnexit.internal/"


async def put(registry: Registry, node_id: str, url: str) -> None:
    await registry.put_node(
        Node(
            id=node_id,
            country=node_id[:2],
            kind="upstream",
            machine=MACHINE,
            status=NodeStatus.SERVING,
            upstream=url,
        )
    )


async def until_served(gateway: Gateway, node_id: str) -> None:
    def described() -> bool:
        return f'"{node_id}"' in curl("-x", f"http://u-node-{node_id}:x@127.0.0.1:{gateway.port}", INTERNAL).stdout

    await asyncio.to_thread(wait_for, described, what=f"{node_id} chosen")


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """The port of an origin on loopback that sends datagrams back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOCAL, 0))

        def answer() -> None:
            while True:
                data, sender = sock.recvfrom(65536)
                if data == b"end" and sender == sock.getsockname():
                    return
                sock.sendto(data, sender)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            sock.sendto(b"end", sock.getsockname())
            thread.join(5)


def ended(gateway: Gateway, words: str) -> dict[str, object]:
    """The log line of an association that holds `words`."""
    wait_for(lambda: any(words in str(line) for line in gateway.lines()), what=f"a log line with {words}")
    return next(line for line in gateway.lines() if words in str(line))


def carries(client: Client, port: int) -> None:
    """By address, by name, many and large, and nothing is dropped."""
    for destination in (at(LOCAL, port), named("127.0.0.1", port)):
        assert client.ask(destination, b"data") == (at(LOCAL, port), b"data")
    for number in range(200):
        assert client.ask(at(LOCAL, port), b"%d" % number)[1] == b"%d" % number
    assert client.ask(at(LOCAL, port), bytes(20_000))[1] == bytes(20_000)


async def test_datagrams_leave_through_a_real_socks5_server(registry: Registry, gateways: Gateways) -> None:
    with dante() as url, echo() as port:
        await put(registry, "jp000001", url)
        gateway = gateways()
        await until_served(gateway, "jp000001")
        with Client(gateway) as client:
            await asyncio.to_thread(carries, client, port)
        line = ended(gateway, "jp000001")
        assert (line["reason"], line["node"], line.get("detail", "")) == ("ok", "jp000001", "")
        assert line["bytes_in"] == line["bytes_out"] == 2 * 4 + 10 + 90 * 2 + 100 * 3 + 20_000
        with Client(gateway) as client:  # and what may go where is judged here
            client.send(at("10.9.9.9", port), b"x")
            client.send(named("localhost", port), b"x")
            assert client.ask(at(LOCAL, port), b"allowed")[1] == b"allowed"
        assert "2 dropped up (target_forbidden)" in str(ended(gateway, "target_forbidden"))


async def other_machine(
    registry: Registry, gateways: Gateways, jp: Exit, tmp_path: Path, **settings: object
) -> tuple[Gateway, str]:
    """A gateway of another machine, which asks for passwords, with an exit in Japan."""
    hashed = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)
    await registry.put_user(User(name=USER, password_hash=hashed))
    await serve(registry, jp)
    node = await registry.node(jp.id)
    assert node is not None
    await registry.put_node(node.model_copy(update={"machine": THERE}))
    there = gateways(machine=THERE, require_auth=True, **settings)
    proxy = f"http://{USER}:{PASSWORD}@127.0.0.1:{there.port}"
    await asyncio.to_thread(wait_for, lambda: jp.id in curl("-x", proxy, INTERNAL).stdout)
    url = f"socks5://{USER}@127.0.0.1:{there.port}"
    put_password(tmp_path, url)
    return there, url


def resolved(client: Client, name: str, kind: str, where: bytes) -> str:
    question = dns.message.make_query(name, kind)
    sender, answer = client.ask(where, question.to_wire())
    assert sender == at(LOCAL, 53)
    message = dns.message.from_wire(answer)
    assert question.is_response(message)
    return message.answer[0][0].to_text()


async def test_dns_over_udp_through_two_gateways(
    exits: Exits, registry: Registry, gateways: Gateways, tmp_path: Path
) -> None:
    jp = exits("jp000001")
    there, url = await other_machine(registry, gateways, jp, tmp_path)
    gateway = gateways(machines={THERE: url}, upstream_passwords=str(tmp_path))
    await until_served(gateway, jp.id)

    def ask() -> None:
        with Client(gateway) as client:
            for where in (at(LOCAL, 53), named("origin.test", 53)):  # the name means something over there only
                assert resolved(client, "example.org", "A", where) == "127.0.0.77"
                assert resolved(client, "example.org", "TXT", where) == '"jp000001"'
            assert client.ask(at(LOCAL, 13), b"who")[1].startswith(b"jp000001")
            client.send(named("private.test", 7), b"resolved and refused over there")
            client.send(named("absent.test", 7), b"x")
            assert client.ask(named("two.test", 7), b"two") == (at("127.0.0.3", 7), b"two")

    await asyncio.to_thread(ask)
    assert ended(gateway, "jp000001")["reason"] == "ok"
    line = ended(there, "target_forbidden")
    assert (line["user"], line["node"]) == (USER, jp.id)
    with Client(gateway) as client:
        assert client.ask(named("origin.test", 7), b"x")[1] == b"x"
        jp.kill()
        assert await asyncio.to_thread(client.ended, 2 + STALL_S)
    assert ended(gateway, "node_lost")["fault"] == "node"
    assert PASSWORD not in gateway.log.read_text() + there.log.read_text()


async def test_an_association_ends_with_its_upstream(registry: Registry, gateways: Gateways) -> None:
    gateway, hasty = gateways(), gateways(udp_idle_timeout=1)
    with contextlib.ExitStack() as stack, echo() as port:
        with dante() as url:
            await put(registry, "jp000001", url)
            for one in (gateway, hasty):
                await until_served(one, "jp000001")
            with Client(hasty) as client:
                started = time.monotonic()
                assert client.ask(at(LOCAL, port), b"x")[1] == b"x"
                assert await asyncio.to_thread(client.ended)
                assert 0.8 < time.monotonic() - started < 2 + STALL_S
            assert ended(hasty, "idle_timeout")["fault"] == "none"
            client = stack.enter_context(Client(gateway))
            assert client.ask(at(LOCAL, port), b"x")[1] == b"x"
        assert await asyncio.to_thread(client.ended, 1 + STALL_S)
    assert ended(gateway, "node_lost")["fault"] == "node"
    with Client(gateway) as client:
        assert client.code == 1


async def test_an_idle_end_over_there_is_nobodys_fault(
    exits: Exits, registry: Registry, gateways: Gateways, tmp_path: Path
) -> None:
    there, url = await other_machine(registry, gateways, exits("jp000001"), tmp_path, udp_idle_timeout=1)
    gateway = gateways(machines={THERE: url}, upstream_passwords=str(tmp_path), udp_idle_timeout=1.5)
    await until_served(gateway, "jp000001")
    with await asyncio.to_thread(Client, gateway) as client:
        assert (await asyncio.to_thread(client.ask, at(LOCAL, 7), b"x"))[1] == b"x"
        assert await asyncio.to_thread(client.ended)
    for one in (there, gateway):
        assert ended(one, "idle_timeout")["fault"] == "none"


async def test_many_associations_through_an_upstream_leave_nothing_behind(
    exits: Exits, registry: Registry, gateways: Gateways, tmp_path: Path
) -> None:
    there, url = await other_machine(registry, gateways, exits("jp000001"), tmp_path)
    gateway = gateways(machines={THERE: url}, upstream_passwords=str(tmp_path))
    await until_served(gateway, "jp000001")

    def use() -> None:
        with Client(gateway) as client:
            assert client.ask(at(LOCAL, 7), b"x")[1] == b"x"

    await asyncio.to_thread(use)
    await asyncio.to_thread(wait_for, lambda: "open_connections 0.0" in gateway.metrics())
    descriptors = gateway.descriptors()
    for _ in range(50):
        await asyncio.to_thread(use)
    await asyncio.to_thread(wait_for, lambda: gateway.descriptors() <= descriptors, what="descriptors given back")
    await asyncio.to_thread(wait_for, lambda: "udp_associations 0.0" in there.metrics())
    assert "Traceback" not in gateway.log.read_text() + there.log.read_text()


async def test_an_upstream_without_udp_says_so_and_another_one_does_it(registry: Registry, gateways: Gateways) -> None:
    refusing = Scripted(saying(b"\x05\x00", b"\x05\x07\x00\x01" + bytes(6)))
    elsewhere = Scripted(saying(b"\x05\x00", b"\x05\x00\x00\x01\x7f\x00\x00\x02\x00\x35", then_close=False))
    silent = Scripted(saying(b"\x05\x00", b"", then_close=False))
    with tinyproxy() as http, dante() as url, echo() as port:
        async with refusing(), elsewhere(), silent():
            await put(registry, "us000001", http)
            await put(registry, "gb000001", f"socks5://{refusing.place}")
            await put(registry, "de000001", f"socks5://{elsewhere.place}")
            await put(registry, "fr000001", f"socks5://{silent.place}")
            for number, place in enumerate((http, f"socks5://{refusing.place}", url)):
                await put(registry, f"jp00000{number}", place)
            gateway = gateways(dial_timeout=3)
            await until_served(gateway, "jp000002")
            for country, words in (
                ("us", "an HTTP upstream carries no UDP"),
                ("gb", "the upstream says to UDP ASSOCIATE: no UDP"),
                ("de", "the upstream wants datagrams to be sent to another host"),
                ("fr", "no answer from the upstream in time"),
            ):
                with await asyncio.to_thread(Client, gateway, user=f"u-country-{country}") as client:
                    assert client.code == 1
                    assert await asyncio.to_thread(client.ended)
                line = await asyncio.to_thread(ended, gateway, words)
                assert line["reason"] == "no_node"
            for _ in range(6):
                with await asyncio.to_thread(Client, gateway) as client:
                    assert client.code == 0
                    assert (await asyncio.to_thread(client.ask, at(LOCAL, port), b"x"))[1] == b"x"


async def test_a_hostile_relay_gets_nothing_to_the_client(registry: Registry, gateways: Gateways) -> None:
    relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    relay.bind((LOCAL, 0))
    relay.settimeout(20)
    hang_up = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x05\x00")
        await reader.read(100)
        writer.write(b"\x05\x00\x00" + at("0.0.0.0", relay.getsockname()[1]))
        await hang_up.wait()

    with relay:
        async with serving(talk) as port:
            await put(registry, "jp000001", f"socks5://127.0.0.1:{port}")
            gateway = gateways()
            await until_served(gateway, "jp000001")
            with await asyncio.to_thread(Client, gateway) as client:
                client.send(at(LOCAL, 7), b"hello")
                datagram, us = await asyncio.to_thread(relay.recvfrom, 1000)
                assert datagram == bytes(3) + at(LOCAL, 7) + b"hello"
                for bad in (
                    b"", b"x", bytes(40), b"\xff" * 1000, bytes(3) + at(LOCAL, 8) + b"unasked", datagram[:9],
                    b"\x00\x00\x01" + datagram[3:], bytes(3) + at("10.9.9.9", 7) + b"x",
                ):  # fmt: skip
                    relay.sendto(bad, us)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                    stranger.bind((LOCAL, ports.free()))
                    stranger.sendto(datagram, us)  # the kernel keeps it out
                relay.sendto(bytes(3) + at(LOCAL, 7) + b"answer", us)
                assert await asyncio.to_thread(client.receive) == (at(LOCAL, 7), b"answer")
                assert client.nothing_comes(0.1)
                hang_up.set()
                assert await asyncio.to_thread(client.ended, 2 + STALL_S)
    line = ended(gateway, "node_lost")
    detail = str(line["detail"])
    assert "2 dropped down (target_forbidden)" in detail
    assert "1 dropped down (not_implemented)" in detail
    assert "down (bad_request)" in detail


@pytest.mark.parametrize("address", ["[::1]", "localhost"])
async def test_an_upstream_by_name_or_ipv6(
    address: str, exits: Exits, registry: Registry, gateways: Gateways, tmp_path: Path
) -> None:
    jp, port = exits("jp000001"), ports.free()
    await serve(registry, jp)
    there = gateways(machine=MACHINE, listen=[f"127.0.0.1:{port}", f"[::1]:{port}"])
    await put(registry, "us000001", f"socks5://u-country-jp@{address}:{port}")
    put_password(tmp_path, f"socks5://u-country-jp@{address}:{port}")
    gateway = gateways(upstream_passwords=str(tmp_path))
    await until_served(gateway, "us000001")
    there.port = port
    await until_served(there, "jp000001")

    def use() -> None:
        with Client(gateway, user="u-country-us") as client:
            assert client.ask(at(LOCAL, 13), b"who")[1].startswith(b"jp000001")

    await asyncio.to_thread(use)

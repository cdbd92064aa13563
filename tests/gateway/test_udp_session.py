"""UDP ASSOCIATE as a client meets it: a real gateway, and origins that speak UDP behind exits in namespaces."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from argon2 import PasswordHasher

from deploy import ports
from health.model import User
from health.registry import Registry
from tests.conftest import STALL_S
from tests.gateway.harness import Exit, Gateway, curl, serve, wait_for
from tests.gateway.udp_client import LOCAL, Client, at, named, prefixed

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]
PASSWORD = "correct horse"


async def ready(registry: Registry, gateway: Gateway, exit_: Exit) -> None:
    await serve(registry, exit_)
    await asyncio.to_thread(
        wait_for, lambda: curl("-x", gateway.url, "http://origin.test/").stdout == exit_.id + "\n", what="serving"
    )


def last_line(gateway: Gateway, event_of: str = "") -> dict[str, object]:
    wait_for(lambda: any(event_of in str(line) for line in gateway.lines()), what=f"a log line with {event_of}")
    return next(line for line in reversed(gateway.lines()) if event_of in str(line))


def dropped(gateway: Gateway, direction: str, reason: str) -> float:
    wanted = f'vpnexit_gateway_datagrams_dropped_total{{direction="{direction}",reason="{reason}"}} '
    found = [line.removeprefix(wanted) for line in gateway.metrics().splitlines() if line.startswith(wanted)]
    return float(found[0]) if found else 0.0


@contextlib.contextmanager
def dropping(gateway: Gateway, direction: str, reason: str, count: int) -> Iterator[None]:
    """`count` datagrams are dropped for `reason` meanwhile."""
    before = dropped(gateway, direction, reason)
    yield
    wait_for(lambda: dropped(gateway, direction, reason) >= before + count, what=f"{count} dropped for {reason}")
    assert dropped(gateway, direction, reason) == before + count


def seen_so_far(client: Client) -> int:
    """How many datagrams port 9 has got."""
    return int(client.ask(at(LOCAL, 9), b"?")[1])


@pytest.fixture
def gateway(shared_gateway: Gateway) -> Gateway:
    return shared_gateway


def test_datagrams_leave_by_the_wanted_country(gateway: Gateway) -> None:
    for node in ("jp000001", "us000001"):
        with Client(gateway, user=f"u-country-{node[:2]}") as client:
            assert (client.code, client.relay[0]) == (0, LOCAL)
            assert client.ask(at(LOCAL, 13), b"who")[1].startswith(node.encode())
            assert client.ask(named("origin.test", 13), b"who")[1].startswith(node.encode())


def test_several_targets_through_one_association(gateway: Gateway) -> None:
    echoes = [
        (at(LOCAL, 7), LOCAL, b"by address"),
        (named("origin.test", 7), LOCAL, b"by name"),
        (named(LOCAL, 7), LOCAL, b"by an address written as a name"),
        (at("127.0.0.3", 7), "127.0.0.3", b"to another address"),
        (at(LOCAL, 7), LOCAL, bytes(60_000)),
    ]
    with Client(gateway) as client:
        for destination, sender, data in echoes:
            assert client.ask(destination, data) == (at(sender, 7), data)
    size = sum(len(data) for _, _, data in echoes)
    line = last_line(gateway, f"'bytes_in': {size}")
    assert (line["reason"], line["country"], line["node"], line["bytes_out"]) == ("ok", "jp", "jp000001", size)


def test_all_targets_see_one_port(gateway: Gateway) -> None:
    with Client(gateway) as client:
        first, before = client.ask(at(LOCAL, 13), b"who")[1], seen_so_far(client)
        client.send(at(LOCAL, 9), b"")  # a datagram may hold nothing
        assert seen_so_far(client) == before + 1
        assert client.ask(named("origin.test", 13), b"who")[1] == first


def test_a_name_keeps_the_address_it_began_with(gateway: Gateway) -> None:
    with Client(gateway) as client:
        for number in range(20):
            assert client.ask(named("two.test", 7), b"%d" % number) == (at("127.0.0.3", 7), b"%d" % number)


def test_a_dns_exchange(gateway: Gateway) -> None:
    question = b"\x07example\x03org\x00"
    with Client(gateway) as client:
        for kind, record in ((1, bytes([127, 0, 0, 77])), (16, b"\x08jp000001")):
            asked = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + question + kind.to_bytes(2) + b"\x00\x01"
            sender, answer = client.ask(named("origin.test", 53), asked)
            assert sender == at(LOCAL, 53)
            number, flags, questions, answers = struct.unpack("!4H", answer[:8])
            assert (number, flags & 0x8000, questions, answers) == (0x1234, 0x8000, 1, 1)
            assert answer.endswith(record)


def test_ipv6_where_the_tunnel_has_it(gateway: Gateway) -> None:
    with Client(gateway, user="u-country-us", host="::1", source="::1") as client:
        assert client.relay[0] == "::1"
        assert client.ask(at("::1", 7), b"six") == (at("::1", 7), b"six")
        assert client.ask(at(LOCAL, 7), b"four") == (at(LOCAL, 7), b"four")
    with Client(gateway, user="u-country-jp") as client, dropping(gateway, "up", "address_unsupported", 1):
        client.send(at("::1", 7), b"six")
        assert client.ask(at(LOCAL, 7), b"four")[1] == b"four"


def test_what_is_no_datagram_for_us_is_dropped(gateway: Gateway) -> None:
    here = at(LOCAL, 9)
    with (
        Client(gateway) as client,
        dropping(gateway, "up", "not_implemented", 2),
        dropping(gateway, "up", "address_unsupported", 1),
        dropping(gateway, "up", "bad_request", 2 + 1 + 3 + 7),
    ):
        before = seen_so_far(client)
        client.send(here, b"fragment", head=b"\x00\x00\x01")
        client.send(here, b"last fragment", head=b"\x00\x00\x81")
        client.send(here, b"reserved", head=b"\x00\x01\x00")
        client.send(here, b"reserved", head=b"\x80\x00\x00")
        client.send(b"\x02" + here[1:], b"address type")
        client.send(at(LOCAL, 0), b"port 0")
        client.send(b"\x03\x00\x00\x07", b"a name of no bytes")
        client.send(named("127.1", 9), b"no name")
        client.send(named("origin.test\0.evil.test", 9), b"no name")
        for cut in range(7):
            client.udp.sendto((bytes(3) + here)[:cut], client.relay)
        assert seen_so_far(client) == before
        client.send(here, b"one")
        assert seen_so_far(client) == before + 1
    assert "2 dropped up (not_implemented)" in str(last_line(gateway, "not_implemented")["detail"])


def test_only_the_client_is_carried(gateway: Gateway) -> None:
    with (
        Client(gateway) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as neighbour,
    ):
        stranger.bind(("127.0.0.2", 0))
        neighbour.bind((LOCAL, 0))
        with dropping(gateway, "up", "client_forbidden", 3):
            for _ in range(3):  # before the client, from another address
                stranger.sendto(bytes(3) + at(LOCAL, 9) + b"stranger", client.relay)
        before = seen_so_far(client)
        for sock in (stranger, neighbour):  # after it: the kernel refuses another port, too
            sock.sendto(bytes(3) + at(LOCAL, 9) + b"stranger", client.relay)
        assert seen_so_far(client) == before
        stranger.settimeout(0.1)
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            stranger.recvfrom(100)


def test_a_port_that_the_client_names_is_the_only_one(gateway: Gateway) -> None:
    mine = ports.free()  # none that the kernel gives to others
    with Client(gateway, origin=at(LOCAL, mine)) as client:
        with dropping(gateway, "up", "client_forbidden", 1):
            client.send(at(LOCAL, 7), b"from the wrong port")
        client.udp.close()
        client.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.udp.bind((LOCAL, mine))
        client.udp.settimeout(20)
        assert client.ask(at(LOCAL, 7), b"hello")[1] == b"hello"
    with Client(gateway, origin=at("10.1.2.3", mine)) as client:  # what a client behind a NAT knows of itself
        assert client.ask(at(LOCAL, 7), b"hello")[1] == b"hello"
    with Client(gateway, origin=named("client.example", 5353)) as client:
        assert client.ask(at(LOCAL, 7), b"hello")[1] == b"hello"


def test_forbidden_targets_get_nothing(gateway: Gateway) -> None:
    refused = [
        at("10.9.9.9", 7), at("0.0.0.0", 7), at("255.255.255.255", 7), at("224.0.0.251", 5353),
        at("169.254.169.254", 53), at("::ffff:127.0.0.1", 7), at("fe80::1", 7), at("64:ff9b::7f00:1", 7),
        named("private.test", 7), named("mixed.test", 7), named("10.9.9.9", 7),
    ]  # fmt: skip
    with Client(gateway) as client, dropping(gateway, "up", "target_forbidden", len(refused)):
        for destination in refused:
            client.send(destination, b"forbidden")
        assert client.ask(at(LOCAL, 7), b"allowed")[1] == b"allowed"
    with Client(gateway) as client, dropping(gateway, "up", "name_not_found", 1):
        client.send(named("absent.test", 7), b"x")


def test_a_rebinding_name_gains_nothing(gateway: Gateway) -> None:
    with Client(gateway) as client:
        assert client.ask(named("rebind.test", 7), b"first answer")[1] == b"first answer"
    time.sleep(1.1)  # the least that an answer is kept
    with Client(gateway) as client, dropping(gateway, "up", "target_forbidden", 1):
        client.send(named("rebind.test", 7), b"second answer")
        assert client.nothing_comes()


def test_a_slow_name_holds_up_no_other(gateway: Gateway) -> None:
    with Client(gateway) as client:
        client.send(named("slow.test", 7), b"slow")
        assert client.ask(at(LOCAL, 7), b"quick")[1] == b"quick"
        assert client.ask(named("origin.test", 7), b"quick, too")[1] == b"quick, too"
        assert client.receive()[1] == b"slow"


def test_answers_come_only_from_whom_the_client_wrote_to(gateway: Gateway) -> None:
    with Client(gateway) as client, dropping(gateway, "down", "target_forbidden", 1):
        assert client.ask(at(LOCAL, 17), b"x") == (at(LOCAL, 17), b"asked")
        assert client.nothing_comes()


def test_what_is_too_large_to_wrap_is_dropped(gateway: Gateway) -> None:
    with Client(gateway) as client:
        assert len(client.ask(at(LOCAL, 19), b"65497")[1]) == 65497
        with dropping(gateway, "down", "too_large", 1):
            client.send(at(LOCAL, 19), b"65507")
        assert client.ask(at(LOCAL, 7), bytes(65497))[1] == bytes(65497)


@pytest.mark.parametrize("reset", [False, True])
def test_the_end_of_the_tcp_connection_ends_it(gateway: Gateway, reset: bool) -> None:
    with Client(gateway) as client:
        client.ask(at(LOCAL, 7), bytes(1001 + reset))
        if reset:
            client.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.tcp.close()
        line = last_line(gateway, f"'bytes_in': {1001 + reset}")
        assert line["reason"] == ("client_reset" if reset else "ok")
        client.udp.connect(client.relay)
        client.udp.send(bytes(3) + at(LOCAL, 7))
        with pytest.raises(ConnectionRefusedError):  # the port is closed
            client.udp.recv(10)
    wait_for(lambda: "vpnexit_gateway_open_connections 0.0" in gateway.metrics())


def test_a_client_that_talks_on_the_tcp_connection_is_cut(gateway: Gateway) -> None:
    with Client(gateway) as client:
        client.tcp.sendall(b"x" * 1000)
        assert client.ask(at(LOCAL, 7), bytes(1003))[1] == bytes(1003)
        with contextlib.suppress(ConnectionError):
            client.tcp.sendall(b"x" * 200_000)
        assert client.ended()
    assert last_line(gateway, "'bytes_in': 1003")["reason"] == "bad_request"


def test_another_node_where_one_has_no_sockets(gateway: Gateway) -> None:
    for _ in range(8):
        with Client(gateway, user="u-country-jp") as client:
            assert client.ask(at(LOCAL, 13), b"who")[1].startswith(b"jp000001")
    with Client(gateway, user="u-node-jp000002") as client:
        assert client.code == 1
    assert last_line(gateway, "no datagram sockets")["reason"] == "no_node"


def test_sessions_count_as_they_do_for_tcp(gateway: Gateway) -> None:
    nodes = set()
    for number in range(12):
        user = f"u-country-jp-session-s{number}-strict"
        proxy = f"http://{user}:x@127.0.0.1:{gateway.port}"
        node = curl("-x", proxy, "http://origin.test/").stdout.strip()
        nodes.add(node)
        with Client(gateway, user=user) as client:
            assert client.code == (0 if node == "jp000001" else 1), node
    assert nodes == {"jp000001", "jp000002"}


def carry(client: Client, count: int) -> None:
    """`count` echoes, 16 at a time, each looked at."""
    for start in range(0, count, 16):
        sent = {b"%08d" % number + bytes(200) for number in range(start, min(start + 16, count))}
        for data in sent:
            client.send(at(LOCAL, 7), data)
        assert {client.receive()[1] for _ in sent} == sent


def test_many_datagrams_and_associations_leave_nothing_behind(gateway: Gateway) -> None:
    with Client(gateway) as client:
        carry(client, 1000)
        before, descriptors = gateway.resident_kib(), gateway.descriptors()
        carry(client, 10_000)
        for number in range(3000):  # destinations and names without end
            client.send(at(f"127.1.{number >> 8}.{number & 255}", 9), b"x")
            client.send(named(f"n{number}.absent.test", 9), b"x" * 1000)
            if number % 20 == 0:
                assert client.ask(at(LOCAL, 7), b"x")[1] == b"x"
        assert gateway.descriptors() <= descriptors  # the stock shrinks meanwhile
        assert gateway.resident_kib() - before < 4 * 1024
    for _ in range(100):
        with Client(gateway) as client:
            assert client.ask(at(LOCAL, 7), b"x")[1] == b"x"
    wait_for(lambda: gateway.descriptors() <= descriptors - 3, what="descriptors given back")
    assert gateway.resident_kib() - before < 8 * 1024
    assert "Traceback" not in gateway.log.read_text()


async def test_an_idle_association_ends_and_a_killed_node_ends_it(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    gateway, jp = gateways(udp_idle_timeout=2), exits("jp000001")
    await ready(registry, gateway, jp)
    with Client(gateway) as client:
        started = time.monotonic()
        while time.monotonic() - started < 2.6:
            assert client.ask(at(LOCAL, 7), b"busy")[1] == b"busy"
            await asyncio.sleep(0.1)
        idle = time.monotonic()
        while time.monotonic() - idle < 0.5:  # what is refused keeps nothing alive
            client.send(at("10.9.9.9", 7), b"x")
            await asyncio.sleep(0.1)
        assert await asyncio.to_thread(client.ended)
        assert 1.6 < time.monotonic() - idle < 2 * 2 + STALL_S
    assert last_line(gateway, "idle_timeout")["fault"] == "none"
    with Client(gateway) as client:
        client.ask(at(LOCAL, 7), b"x")
        jp.kill()
        assert client.ended(2 + STALL_S)
    assert last_line(gateway, "node_lost")["fault"] == "node"
    with Client(gateway) as client:
        assert client.code == 1  # no node


async def test_no_association_lives_for_ever(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(max_lifetime=1), exits("jp000001")
    await ready(registry, gateway, jp)
    with Client(gateway) as client:
        client.udp.settimeout(1)
        started = time.monotonic()
        while time.monotonic() - started < 10:
            try:
                client.ask(at(LOCAL, 7), b"busy")
            except OSError:
                break
            await asyncio.sleep(0.05)
        assert await asyncio.to_thread(client.ended)
        assert 0.9 < time.monotonic() - started < 2 + 1 + STALL_S
    assert last_line(gateway, "lifetime")["fault"] == "none"


async def test_users_passwords_and_countries(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    hashed = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)
    await registry.put_user(User(name="alice", password_hash=hashed, allowed_countries=("jp",)))
    gateway, jp = gateways(require_auth=True), exits("jp000001")
    await serve(registry, jp)

    def works() -> bool:
        with contextlib.suppress(AssertionError), Client(gateway, user="alice", password=PASSWORD) as client:
            return client.code == 0 and client.ask(at(LOCAL, 7), b"x")[1] == b"x"
        return False

    wait_for(works)
    for user, password, told in (
        ("alice", "wrong", b"\x01\x01"),
        ("nobody", PASSWORD, b"\x01\x01"),
        ("alice-country-us", PASSWORD, b"\x01\x00" + b"\x05\x02\x00\x01" + bytes(6)),
    ):
        with gateway.connect() as sock:
            sock.sendall(prefixed(user, password) + b"\x05\x03\x00" + at("0.0.0.0", 0))
            assert b"".join(iter(lambda s=sock: s.recv(100), b"")) == b"\x05\x02" + told
    with gateway.connect() as sock:
        sock.sendall(b"\x05\x01\x00\x05\x03\x00" + at("0.0.0.0", 0))
        assert b"".join(iter(lambda: sock.recv(100), b"")) == b"\x05\xff"


# From a trusted proxy: clients that reached another address than the gateway's own; and one that reached this one.
HEADER = b"PROXY TCP4 127.0.0.9 127.0.0.8 5555 1080\r\n"
HEADER_6 = b"PROXY TCP6 ::1 ::1 5555 1080\r\n"
NO_HEADER = b"PROXY UNKNOWN\r\n"


async def test_beyond_loopback_it_needs_an_address(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    port = ports.free()
    gateway = gateways(trusted_proxies=["127.0.0.1/32"], udp_ports=f"{port}-{port}")
    jp = exits("jp000001")
    await serve(registry, jp)
    for header in (HEADER, HEADER_6):
        with Client(gateway, first=header) as client:
            assert client.code == 7
            assert client.relay == ("0.0.0.0", 0)
    line = last_line(gateway, "udp_advertise with an IPv6 address")
    assert line["reason"] == "command_unsupported"
    assert str(line["detail"]).startswith("UDP ASSOCIATE beyond loopback needs gateway.udp_advertise")
    await asyncio.to_thread(wait_for, lambda: direct(gateway), what="serving")
    await asyncio.to_thread(wait_for, lambda: "udp_associations 0.0" in gateway.metrics(), what="a free port")
    with Client(gateway, first=NO_HEADER) as client, Client(gateway, first=NO_HEADER) as second:
        assert client.relay == (LOCAL, port)
        assert second.code == 1  # no port is left
        assert client.ask(at(LOCAL, 7), b"x")[1] == b"x"
    assert "udp_ports" in str(last_line(gateway, "overloaded")["detail"])


def direct(gateway: Gateway) -> bool:
    with Client(gateway, first=NO_HEADER) as client:
        return client.code == 0


async def test_the_advertised_address_is_told(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    first = ports.free()
    gateway = gateways(
        trusted_proxies=["127.0.0.1/32"],
        # One that is forwarded to this machine, and two of its own.
        udp_advertise=["2001:db8::77", "127.0.0.5", "127.0.0.6"],
        udp_ports=f"{first}-{first + 20}",
    )
    jp = exits("jp000001")
    await serve(registry, jp)
    await asyncio.to_thread(wait_for, lambda: direct(gateway), what="serving")
    for header, source, told, reached in (
        (HEADER, "127.0.0.9", "127.0.0.5", "127.0.0.5"),
        (HEADER.replace(b"127.0.0.8", b"127.0.0.6"), "127.0.0.9", "127.0.0.6", "127.0.0.6"),
        (HEADER_6, "::1", "2001:db8::77", "::1"),
    ):
        with Client(gateway, first=header, source=source) as client:
            assert client.relay[0] == told
            assert first <= client.relay[1] <= first + 20
            client.relay = (reached, client.relay[1])
            assert client.ask(at(LOCAL, 7), b"hello")[1] == b"hello"
    # The proxy's address is not the client's.
    with Client(gateway, first=HEADER, source=LOCAL) as client, dropping(gateway, "up", "client_forbidden", 1):
        client.send(at(LOCAL, 7), b"hello")


async def test_sigterm_ends_it_at_the_deadline(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(drain_timeout=3), exits("jp000001")
    await ready(registry, gateway, jp)
    with Client(gateway) as client:
        gateway.process.terminate()
        assert client.ask(at(LOCAL, 7), bytes(8888))[1] == bytes(8888)
        assert await asyncio.to_thread(client.ended, 20)
    assert await asyncio.to_thread(gateway.process.wait, 20) == 0
    assert last_line(gateway, "'bytes_in': 8888")["reason"] == "shutdown"


async def test_associations_leave_the_descriptors_to_the_others(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    """Each has twice the descriptors of a tunnel; out of them, a worker would lose its agents and all tunnels."""
    places = (300 - 128 - 15 - 64) // 2
    gateway, us = gateways(files=300, handshake_timeout=60), exits("us000001")
    us.tell("inet6")
    await ready(registry, gateway, us)
    with contextlib.ExitStack() as stack:
        for _ in range(places - 16):
            stack.enter_context(gateway.connect())
        await asyncio.to_thread(wait_for, lambda: f"open_connections {places - 16}.0" in gateway.metrics())
        made = [stack.enter_context(Client(gateway, user="u-country-us")) for _ in range(8)]
        assert [client.code for client in made] == [0] * 8
        waiting = stack.enter_context(gateway.connect())
        waiting.settimeout(0.5)
        waiting.sendall(b"GET http://vpnexit.internal/ HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        made[0].close()
        waiting.settimeout(20)
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
        with Client(gateway, user="u-country-us") as refused:
            assert refused.code == 1
        assert gateway.descriptors() < 300

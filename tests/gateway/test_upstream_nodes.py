"""Upstream nodes and other machines' nodes, as a client meets them: real gateways, real proxies, a real origin."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from deploy import ports
from health.model import Node, User
from health.registry import Registry
from tests.gateway.harness import MACHINE, Exit, Gateway, chosen, curl, serve, wait_for
from tests.gateway.upstreams import (
    PASSWORD,
    USER,
    Scripted,
    banner_and_echo,
    microsocks,
    put_password,
    saying,
    serving,
    squid,
    tinyproxy,
    web,
)

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]
THERE = "elsewhere"


async def put(registry: Registry, node_id: str, url: str) -> None:
    country = node_id[:2]
    await registry.put_node(
        Node(id=node_id, country=country, kind="upstream", machine=MACHINE, status="serving", upstream=url)
    )


async def fetch(gateway: Gateway, url: str, *options: str, user: str = "u-country-jp:x") -> str:
    """What curl gets, then the status; every line that it writes."""
    how = ["-x", f"http://{user}@127.0.0.1:{gateway.port}", "-w", "\n%{http_connect} %{http_code}"]
    return (await asyncio.to_thread(curl, *how, *options, url)).stdout


def ended(gateway: Gateway) -> list[dict[str, object]]:
    """The connection log, complete once the gateway has stopped."""
    gateway.close()
    return gateway.lines()


async def until_served(gateway: Gateway, node_id: str) -> None:
    def described() -> bool:
        return f'"{node_id}"' in curl("-x", f"http://u-node-{node_id}:x@127.0.0.1:{gateway.port}", INTERNAL).stdout

    await asyncio.to_thread(wait_for, described, what=f"{node_id} chosen")


INTERNAL = "http://vpnexit.internal/"


@pytest.mark.parametrize(
    "proxy",
    [lambda: microsocks(login=True), lambda: tinyproxy(login=True), squid],
    ids=["microsocks", "tinyproxy", "squid"],
)
async def test_every_protocol_leaves_through_a_real_upstream(
    proxy: Callable[[], AbstractContextManager[str]], registry: Registry, gateways: Gateways, tmp_path: Path
) -> None:
    with proxy() as url:
        put_password(tmp_path, url)
        await put(registry, "jp000001", url)
        gateway = gateways(upstream_passwords=str(tmp_path))
        await until_served(gateway, "jp000001")
        async with serving(web) as port, serving(banner_and_echo) as talker:
            origin = f"http://127.0.0.1:{port}/x"
            for how in ("http", "socks5", "socks5h"):
                for extra in ((), ("-p",)) if how == "http" else ((),):
                    answer = await asyncio.to_thread(
                        curl, *extra, "-x", f"{how}://u-country-jp:x@127.0.0.1:{gateway.port}", origin
                    )
                    assert answer.stdout.startswith("GET /x HTTP/1.1"), (how, extra, answer.stderr)
            head = await asyncio.to_thread(connect, gateway, f"127.0.0.1:{talker}", b"220 ready\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"X-Exit-Node: jp000001\r\nX-Exit-Country: jp\r\n" in head
    assert ended(gateway)
    assert PASSWORD not in gateway.log.read_text()


def connect(gateway: Gateway, authority: str, until: bytes) -> bytes:
    """CONNECT, and read on to `until`, which the origin says by itself."""
    with gateway.connect() as sock:
        sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        data = b""
        while not data.endswith(until):
            chunk = sock.recv(65536)
            assert chunk, data
            data += chunk
    return data


async def test_a_dead_upstream_costs_no_client_anything(registry: Registry, gateways: Gateways) -> None:
    elsewhere = Scripted(saying(b"HTTP/1.1 200 OK\r\n\r\n"))
    with microsocks() as alive:
        async with elsewhere(), serving(web) as port:
            await put(registry, "jp000001", f"socks5://127.0.0.1:{ports.free()}")
            await put(registry, "jp000002", alive)
            await put(registry, "us000001", f"http://{elsewhere.place}")
            gateway = gateways()
            await until_served(gateway, "us000001")
            for _ in range(12):
                answer = await fetch(gateway, f"http://127.0.0.1:{port}/", "-p")
                assert answer.endswith("\n200 200"), answer
    assert "jp000002" in {line["node"] for line in ended(gateway) if line["bytes_out"]}
    assert elsewhere.seen == []


async def test_what_the_target_refused_is_told_so_and_not_tried_again(registry: Registry, gateways: Gateways) -> None:
    refusing = [Scripted(saying(b"\x05\x00", b"\x05\x05\x00\x01" + bytes(6))) for _ in range(2)]
    async with refusing[0](), refusing[1]():
        for number, upstream in enumerate(refusing):
            await put(registry, f"jp00000{number}", f"socks5://{upstream.place}")
        gateway = gateways()
        await until_served(gateway, "jp000001")
        answer = await fetch(gateway, "http://origin.test/", "-i")
        socks = await asyncio.to_thread(
            curl, "-x", f"socks5h://u-country-jp:x@127.0.0.1:{gateway.port}", "http://origin.test/"
        )
    assert answer.startswith("HTTP/1.1 502")
    assert "Proxy-Status: vpnexit; error=connection_refused" in answer
    assert "(5)" in socks.stderr
    asked = [seen for upstream in refusing for seen in upstream.seen]
    assert asked == [b"\x05\x01\x00" + b"\x05\x01\x00\x03\x0borigin.test\x00\x50"] * 2
    assert [line["fault"] for line in ended(gateway) if line["reason"] == "refused"] == ["target"] * 2


async def test_when_every_upstream_fails_it_is_the_nodes_fault(registry: Registry, gateways: Gateways) -> None:
    broken = Scripted(saying(b"\x05\x00", b"\x05\x01\x00\x01" + bytes(6)))
    async with broken():
        await put(registry, "jp000001", f"socks5://{broken.place}")
        await put(registry, "jp000002", f"socks5://127.0.0.1:{ports.free()}")
        gateway = gateways()
        await until_served(gateway, "jp000002")
        answer = await fetch(gateway, "http://origin.test/", "-i")
    assert answer.startswith("HTTP/1.1 502")
    assert "Proxy-Status: vpnexit; error=proxy_internal_error" in answer
    assert "the last one tried: the upstream" in answer
    assert len(broken.seen) == 1
    assert "127.0.0.1" not in answer  # where the upstreams are is no client's business


async def test_an_upstream_never_gets_a_forbidden_literal(registry: Registry, gateways: Gateways) -> None:
    upstream = Scripted(saying(b"\x05\x00"))
    async with upstream():
        await put(registry, "jp000001", f"socks5://{upstream.place}")
        gateway = gateways(allow_targets=[])
        await until_served(gateway, "jp000001")
        for target in ("127.0.0.1", "[::ffff:127.0.0.1]", "localhost"):
            answer = await fetch(gateway, f"http://{target}:1/", "-i")
            assert answer.startswith("HTTP/1.1 403"), answer
    assert upstream.seen == []


async def other_machine(registry: Registry, gateways: Gateways, exits: Exits) -> tuple[Gateway, Exit]:
    """A gateway of another machine, which asks for passwords, with an exit in Japan."""
    hashed = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)
    await registry.put_user(User(name=USER, password_hash=hashed))
    jp = exits("jp000001")
    await serve(registry, jp)
    node = await registry.node(jp.id)
    assert node is not None
    await registry.put_node(node.model_copy(update={"machine": THERE}))
    there = gateways(machine=THERE, require_auth=True)
    await asyncio.to_thread(
        wait_for, lambda: jp.id in curl("-x", f"http://{USER}:{PASSWORD}@127.0.0.1:{there.port}", INTERNAL).stdout
    )
    return there, jp


async def test_our_own_gateway_as_somebodys_upstream(
    exits: Exits, registry: Registry, gateways: Gateways, tmp_path: Path
) -> None:
    there, jp = await other_machine(registry, gateways, exits)
    gateway = gateways(upstream_passwords=str(tmp_path))
    # A SOCKS5 reply cannot say "no such name".
    for scheme, country, no_name in (("socks5", "us", "destination_ip_unroutable"), ("http", "gb", "dns_error")):
        url = f"{scheme}://{USER}-country-jp@127.0.0.1:{there.port}"
        put_password(tmp_path, url)
        await put(registry, f"{country}000001", url)
        await until_served(gateway, f"{country}000001")
        assert await chosen(gateway, country) == jp.id
        user = f"u-country-{country}:x"
        answer = await fetch(gateway, "http://nothing.test/", "-i", user=user)
        assert answer.startswith("HTTP/1.1 502"), answer
        assert f"error={no_name}" in answer
        answer = await fetch(gateway, "http://private.test/", "-i", user=user)  # resolved and refused over there
        assert answer.startswith("HTTP/1.1 403"), answer
        answer = await fetch(gateway, "http://127.0.0.1:81/", "-i", user=user)
        assert "error=connection_refused" in answer


async def test_a_node_of_another_machine_is_reached_through_its_gateway(
    exits: Exits, registry: Registry, gateways: Gateways, tmp_path: Path
) -> None:
    there, jp = await other_machine(registry, gateways, exits)
    url = f"socks5://{USER}@127.0.0.1:{there.port}"
    put_password(tmp_path, url)
    without = gateways()
    gateway = gateways(machines={THERE: url}, upstream_passwords=str(tmp_path))
    assert await chosen(gateway, "jp") == jp.id
    await chosen(without, "jp", expected=503)
    head = await asyncio.to_thread(echoed, gateway)
    assert b"X-Exit-Node: jp000001\r\n" in head
    jp.kill()
    answer = ""
    while "502" not in answer:  # the other gateway sees it within 35 ms; until then it goes on trying
        answer = await fetch(gateway, "http://origin.test/", "-i")
        assert "HTTP/1.1 200" not in answer
    assert "error=proxy_internal_error" in answer or "error=connection_terminated" in answer
    assert {line["user"] for line in ended(there)} == {USER}
    assert {line["node"] for line in ended(gateway) if line["reason"] == "ok"} == {jp.id}
    assert PASSWORD not in gateway.log.read_text() + there.log.read_text()


def echoed(gateway: Gateway) -> bytes:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(b"CONNECT origin.test:7 HTTP/1.1\r\nHost: origin.test:7\r\n\r\nhello")
        data = b""
        while not data.endswith(b"hello"):
            chunk = sock.recv(65536)
            assert chunk, data
            data += chunk
    return data

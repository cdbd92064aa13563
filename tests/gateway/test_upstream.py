"""Asking real and misbehaving upstreams for a target: what arrives, and whose fault a failure is."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from deploy import ports
from gateway.channel import Channel
from gateway.errors import LinkError
from gateway.links import DirectLink, Relay
from gateway.poller import Poller
from gateway.upstream import DoubtfulError, Routes, UpstreamLink
from gateway.wire.base import Target, WireError
from gateway.wire.socks import encode_address
from health.model import Node
from health.reasons import Reason
from tests.conftest import STALL_S
from tests.gateway.upstreams import (
    PASSWORD,
    Scripted,
    banner_and_echo,
    microsocks,
    put_password,
    saying,
    serving,
    squid,
    tinyproxy,
)

Peer = Callable[[], AbstractContextManager[str]]
Make = Callable[..., UpstreamLink]
PEERS: dict[str, Peer] = {
    "microsocks": microsocks,
    "microsocks with login": partial(microsocks, login=True),
    "microsocks on IPv6": partial(microsocks, host="::1"),
    "tinyproxy": tinyproxy,
    "tinyproxy with login": partial(tinyproxy, login=True),
    "squid": squid,
}
SOCKS_OK = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38"
NAME = Target("name.test", 443)


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    made = Poller(asyncio.get_running_loop())
    yield made
    made.close()


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[UpstreamLink] = []

    def make(url: str, password: str | None = PASSWORD, want: str = "") -> UpstreamLink:
        if password is not None and "@" in url:
            put_password(tmp_path, url, password)
        made.append(UpstreamLink("jp000001", url, tmp_path, want))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Iterator[str]:
    with PEERS[request.param]() as url:
        yield url


def at(port: int) -> Target:
    return Target("127.0.0.1", port, ip_address("127.0.0.1"))


async def read(channel: Channel, count: int) -> bytes:
    data = b""
    async with asyncio.timeout(20):
        while len(data) < count:
            chunk = await channel.read()
            assert chunk, data
            data += chunk
    return data


async def test_bytes_go_both_ways_through_a_real_proxy(peer: str, poller: Poller, link: Make) -> None:
    async with serving(banner_and_echo) as port:
        with await link(peer).open(poller, at(port), 10, alone=True) as channel:
            assert channel.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert await read(channel, 11) == b"220 ready\r\n"
            await channel.write(b"x" * 100_000)
            assert await read(channel, 100_000) == b"x" * 100_000


async def test_a_target_that_refuses(peer: str, poller: Poller, link: Make) -> None:
    with pytest.raises((WireError, DoubtfulError)) as refused:
        await link(peer).open(poller, at(ports.free()), 10, alone=True)
    if peer.startswith("socks5"):
        assert isinstance(refused.value, WireError)
        assert refused.value.reason is Reason.REFUSED
    else:  # tinyproxy says 500, squid 503: neither says whose fault it is
        assert str(refused.value) in ("the upstream answered 500", "the upstream answered 503")


async def test_a_wrong_password_is_the_nodes_fault_and_a_right_one_is_taken_at_once(
    poller: Poller, link: Make, tmp_path: Path
) -> None:
    for proxy in (partial(microsocks, login=True), partial(tinyproxy, login=True)):
        async with serving(banner_and_echo) as port:
            with proxy() as url:
                node = link(url, "wrong-secret")
                with pytest.raises(LinkError, match=r"refused the log-in|answered 40[17]") as refused:
                    await node.open(poller, at(port), 10, alone=True)
                assert "wrong-secret" not in str(refused.value)
                put_password(tmp_path, url)
                (await node.open(poller, at(port), 10, alone=True)).close()


async def test_a_name_is_handed_on_as_a_name(poller: Poller, link: Make) -> None:
    socks, http = Scripted(saying(b"\x05\x00", SOCKS_OK)), Scripted(saying(b"HTTP/1.1 200 OK\r\n\r\n"))
    async with socks(), http():
        (await link(f"socks5://{socks.place}").open(poller, NAME, 10, alone=True)).close()
        (await link(f"http://{http.place}").open(poller, NAME, 10, alone=True)).close()
    assert socks.seen == [b"\x05\x01\x00" + b"\x05\x01\x00\x03\x09name.test\x01\xbb"]
    assert http.seen == [b"CONNECT name.test:443 HTTP/1.1\r\nHost: name.test:443\r\n\r\n"]


async def test_the_upstream_itself_may_have_a_name(poller: Poller, link: Make) -> None:
    upstream = Scripted(saying(b"\x05\x00", SOCKS_OK))
    async with upstream():
        url = f"socks5://localhost:{upstream.place.rpartition(':')[2]}"
        (await link(url).open(poller, NAME, 10, alone=True)).close()


async def test_what_the_target_says_in_the_same_segment_is_kept(poller: Poller, link: Make) -> None:
    socks = Scripted(saying(b"\x05\x00", SOCKS_OK + b"SSH-2.0\r\n", then_close=False))
    http = Scripted(saying(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n" + b"SSH-2.0\r\n", then_close=False))
    async with socks(), http():
        for url in (f"socks5://{socks.place}", f"http://{http.place}"):
            with await link(url).open(poller, NAME, 10, alone=True) as channel:
                assert await read(channel, 9) == b"SSH-2.0\r\n"


async def test_an_answer_in_single_bytes(poller: Poller, link: Make) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\nhello":
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.002)
        await asyncio.sleep(60)

    upstream = Scripted(drip)
    async with upstream():
        with await link(f"http://{upstream.place}").open(poller, NAME, 10, alone=True) as channel:
            assert await read(channel, 5) == b"hello"


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


SILENT = saying(b"", then_close=False)


@pytest.mark.parametrize(
    ("scheme", "talk", "error", "said"),
    [
        ("socks5", saying(b""), LinkError, "hung up"),
        ("socks5", reset, LinkError, "hung up"),
        ("socks5", saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), LinkError, "does not speak SOCKS5"),
        ("socks5", saying(b"\x05\xff"), LinkError, "another kind of log-in"),
        ("socks5", saying(b"\x05"), LinkError, "hung up"),
        ("socks5", SILENT, LinkError, "no answer"),
        ("socks5", saying(b"\x05\x00", b""), DoubtfulError, "hung up"),
        ("socks5", saying(b"\x05\x00", b"\x05\x00\x00\x01"), DoubtfulError, "hung up"),
        ("socks5", saying(b"\x05\x00", b"\x05\x01\x00\x01" + bytes(6)), DoubtfulError, "general failure"),
        ("socks5", saying(b"\x05\x00", b"", then_close=False), DoubtfulError, "no answer"),
        ("http", saying(b""), DoubtfulError, "hung up"),
        ("http", reset, DoubtfulError, "hung up"),
        ("http", saying(b"\x05\x00\r\n\r\n"), DoubtfulError, "no HTTP"),
        ("http", saying(b"HTTP/1.1 407 No\r\n\r\n"), DoubtfulError, "answered 407"),
        ("http", saying(b"HTTP/1.1 200 OK\r\n"), DoubtfulError, "hung up"),
        ("http", SILENT, DoubtfulError, "no answer"),
    ],
)
async def test_an_upstream_that_fails_is_not_told_as_the_target(
    scheme: str, talk: object, error: type[LinkError], said: str, poller: Poller, link: Make
) -> None:
    upstream = Scripted(talk)  # type: ignore[arg-type]
    async with upstream():
        node, began = link(f"{scheme}://{upstream.place}"), time.monotonic()
        with pytest.raises(LinkError, match=said) as failed:
            await node.open(poller, NAME, 1, alone=False)
        assert type(failed.value) is error
        assert time.monotonic() - began < 1 + STALL_S
        assert node.in_flight == 0


@pytest.mark.parametrize(
    ("scheme", "talk", "reason"),
    [
        ("socks5", saying(b"\x05\x00", b"\x05\x05"), Reason.REFUSED),
        ("socks5", saying(b"\x05\x00", b"\x05\x04\x00\x01" + bytes(6)), Reason.HOST_UNREACHABLE),
        ("socks5", saying(b"\x05\x00", b"\x05\x02\x00\x01" + bytes(6)), Reason.TARGET_FORBIDDEN),
        ("http", saying(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), Reason.HOST_UNREACHABLE),
        ("http", saying(b"HTTP/1.1 504 Slow\r\nProxy-Status: p; error=dns_timeout\r\n\r\n"), Reason.NAME_LOOKUP),
    ],
)
async def test_what_it_tells_of_the_target_is_the_targets(
    scheme: str, talk: object, reason: Reason, poller: Poller, link: Make
) -> None:
    upstream = Scripted(talk)  # type: ignore[arg-type]
    async with upstream():
        with pytest.raises(WireError) as refused:
            await link(f"{scheme}://{upstream.place}").open(poller, NAME, 10, alone=True)
    assert refused.value.reason is reason


async def test_alone_it_has_the_whole_deadline_for_the_target_but_not_for_itself(poller: Poller, link: Make) -> None:
    asked, silent = Scripted(saying(b"\x05\x00", b"", then_close=False)), Scripted(SILENT)
    async with asked(), silent():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await link(f"socks5://{asked.place}").open(poller, NAME, 1.5, alone=True)
        with pytest.raises(LinkError, match="no answer"):
            async with asyncio.timeout(1.5):
                await link(f"socks5://{silent.place}").open(poller, NAME, 1.5, alone=True)


async def test_one_that_is_not_there(poller: Poller, link: Make) -> None:
    with pytest.raises(LinkError, match="not reached"):
        await link(f"socks5://127.0.0.1:{ports.free()}").open(poller, NAME, 10, alone=True)
    with pytest.raises(LinkError, match="could not be resolved"):
        await link("socks5://nothing.invalid:1080").open(poller, NAME, 10, alone=True)


async def test_a_node_that_goes_away_ends_its_dials_at_once(poller: Poller, link: Make) -> None:
    upstream = Scripted(SILENT)
    async with upstream():
        node = link(f"socks5://{upstream.place}")
        dial = asyncio.create_task(node.open(poller, NAME, 20, alone=True))
        while not upstream.seen:
            await asyncio.sleep(0.01)
        node.abort_dials()
        with pytest.raises(LinkError):
            await asyncio.wait_for(dial, 10)


@pytest.mark.parametrize("content", [None, "", "\n", "x" * 256])
async def test_without_a_password_nothing_is_sent(
    content: str | None, poller: Poller, link: Make, tmp_path: Path
) -> None:
    upstream = Scripted(SILENT)
    async with upstream():
        node = link(f"socks5://me@{upstream.place}", content)
        with pytest.raises(LinkError, match="password cannot be read") as failed:
            await node.open(poller, NAME, 10, alone=True)
        assert str(tmp_path) not in str(failed.value)
    assert upstream.seen == []


async def test_the_name_localhost_is_refused(poller: Poller, link: Make) -> None:
    for name in ("localhost", "a.localhost"):
        with pytest.raises(WireError) as refused:
            await link("socks5://127.0.0.1:9").open(poller, Target(name, 80), 10, alone=True)
        assert refused.value.reason is Reason.TARGET_FORBIDDEN


async def test_nothing_leaves_by_this_machine(link: Make) -> None:
    node = link("socks5://127.0.0.1:9")
    assert node.pop_socket("127.0.0.1") is None
    for never in (node.fetch_socket("127.0.0.1"), node.take_datagram_socket("inet"), node.resolve("name.test")):
        with pytest.raises(LinkError):
            await never


async def test_which_nodes_have_a_route(tmp_path: Path) -> None:
    routes = Routes("here", {"there": "socks5://me@127.0.0.1:9"}, tmp_path)

    def node(kind: str, machine: str, url: str = "") -> Node:
        return Node(id="jp000001", country="jp", kind=kind, machine=machine, status="serving", upstream=url)

    assert [routes.reaches(node("vpn", name)) for name in ("here", "there", "elsewhere")] == [True, True, False]
    assert routes.link(node("vpn", "here")) is None
    assert routes.link(node("direct", "here")) is None
    assert routes.link(node("upstream", "here")) is None  # a record without an address
    for found in (routes.link(node("vpn", "there")), routes.link(node("upstream", "here", "http://127.0.0.1:9"))):
        assert found is not None
        assert found.usable
        with contextlib.suppress(LinkError):
            await found.close()


def bound(address: str, port: int) -> bytes:
    return b"\x05\x00\x00" + encode_address(ip_address(address), port)


def named(name: str, port: int) -> bytes:
    return b"\x05\x00\x00\x03" + bytes([len(name)]) + name.encode() + port.to_bytes(2)


def done_with(poller: Poller, relay: Relay) -> None:
    relay.datagrams.close()
    poller.forget(relay.control.fileno())
    relay.control.close()


async def relay_of(link: Make, poller: Poller, reply: bytes, host: str = "127.0.0.1") -> tuple[str, int]:
    """Where datagrams go after an upstream at `host` has said `reply`."""
    upstream = Scripted(saying(b"\x05\x00", reply, then_close=False))
    async with upstream():
        given = await link(f"socks5://{host}:{upstream.place.rpartition(':')[2]}").associate(poller, 10)
        peer: tuple[str, int] = given.datagrams.getpeername()
        done_with(poller, given)
    assert upstream.seen == [b"\x05\x01\x00" + b"\x05\x03\x00\x01" + bytes(6)]
    return peer


async def test_a_relay_on_the_upstreams_own_host_is_taken(poller: Poller, link: Make) -> None:
    for reply in (bound("127.0.0.1", 77), bound("0.0.0.0", 77), bound("::", 77), bound("::ffff:127.0.0.1", 77)):
        assert await relay_of(link, poller, reply) == ("127.0.0.1", 77)
    for reply in (named("localhost", 77), named("LOCALHOST.", 77), bound("127.0.0.1", 77)):
        assert await relay_of(link, poller, reply, "localhost") == ("127.0.0.1", 77)


async def test_a_relay_elsewhere_is_refused(poller: Poller, link: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    resolve = DirectLink.resolve

    async def noted(self: DirectLink, name: str) -> tuple[str, ...]:
        asked.append(name)
        return await resolve(self, name)

    monkeypatch.setattr(DirectLink, "resolve", noted)
    elsewhere = [bound("127.0.0.2", 77), bound("192.0.2.1", 77), bound("2001:db8::1", 77), named("localhost", 77)]
    for reply in elsewhere:
        with pytest.raises(LinkError, match="another host"):
            await relay_of(link, poller, reply)
    for reply in (bound("127.0.0.2", 77), named("other.test", 77), named("", 77), named("127.0.0.1", 77)):
        with pytest.raises(LinkError, match="another host"):
            await relay_of(link, poller, reply, "localhost")
    assert set(asked) == {"localhost"}  # the configured name, never the one that was told
    with pytest.raises(LinkError, match="names no port"):
        await relay_of(link, poller, bound("127.0.0.1", 0))


async def test_without_a_relay_it_is_the_nodes_fault(poller: Poller, link: Make) -> None:
    scripts = {
        "no UDP": saying(b"\x05\x00", b"\x05\x07\x00\x01" + bytes(6)),
        "UDP ASSOCIATE: it does not allow": saying(b"\x05\x00", b"\x05\x02\x00\x01" + bytes(6)),
        "does not speak SOCKS5": saying(b"HTTP/1.1 400 no\r\n\r\n"),
        "hung up": saying(b"\x05\x00"),
        "in time": saying(b"\x05\x00", b"", then_close=False),
    }
    for words, script in scripts.items():
        upstream = Scripted(script)
        async with upstream():
            node = link(f"socks5://{upstream.place}")
            started = time.monotonic()
            with pytest.raises(LinkError, match=words):
                await node.associate(poller, 1.5)
            assert time.monotonic() - started < 1.5 + STALL_S
            assert not node.dials
    with pytest.raises(LinkError, match="HTTP upstream carries no UDP"):
        await link("http://127.0.0.1:1").associate(poller, 1)
    with pytest.raises(LinkError, match="not reached"):
        await link(f"socks5://127.0.0.1:{ports.free()}").associate(poller, 1)


async def test_a_relay_is_asked_for_with_the_password(poller: Poller, link: Make) -> None:
    upstream = Scripted(saying(b"\x05\x02", b"\x01\x00", bound("0.0.0.0", 77), then_close=False))
    async with upstream():
        relay = await link(f"socks5://u@{upstream.place}", "pass", "-node-jp1-strict").associate(poller, 10)
        assert relay.control.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        done_with(poller, relay)
    assert b"\x01\x11u-node-jp1-strict\x04pass" in upstream.seen[0]


async def test_asking_for_a_relay_ends_when_the_node_goes(poller: Poller, link: Make) -> None:
    upstream = Scripted(saying(b"\x05\x00", b"", then_close=False))
    async with upstream():
        node = link(f"socks5://{upstream.place}")
        asking = asyncio.create_task(node.associate(poller, 10))
        while not upstream.seen or not upstream.seen[0]:
            await asyncio.sleep(0.01)
        node.abort_all()
        with pytest.raises(LinkError):
            await asyncio.wait_for(asking, 5)

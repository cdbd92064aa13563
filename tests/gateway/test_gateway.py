"""The gateway as a client meets it: a real process, real Redis, exits in namespaces of their own."""

import asyncio
import json
import socket
import time
from base64 import b64encode
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher

from health.model import Pool, User
from health.registry import Registry
from tests.conftest import STALL_S
from tests.gateway.harness import Exit, Gateway, chosen, curl, serve, wait_for

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]
PASSWORD = "correct horse"
JP = "jp000001"
# Of what a shared gateway has, this node is meant.
LOGIN = b"Proxy-Authorization: Basic %b\r\n" % b64encode(f"u-node-{JP}:x".encode())


async def ready(registry: Registry, gateway: Gateway, *exits: Exit) -> None:
    await serve(registry, *exits)
    for exit_ in exits:
        await asyncio.to_thread(
            wait_for,
            lambda e=exit_: (
                curl("-x", f"http://u-node-{e.id}:x@127.0.0.1:{gateway.port}", "http://origin.test/").stdout
                == e.id + "\n"
            ),
            what=f"{exit_.id} serving",
        )


def test_every_protocol_leaves_by_the_wanted_country(shared_gateway: Gateway) -> None:
    for node, wanted in ((JP, f"u-node-{JP}:x"), ("us000001", "u-country-us:x")):
        for how in (
            ["-x", f"http://{wanted}@127.0.0.1:{shared_gateway.port}"],
            ["-p", "-x", f"http://{wanted}@127.0.0.1:{shared_gateway.port}"],
            ["-x", f"socks5h://{wanted}@127.0.0.1:{shared_gateway.port}"],
        ):
            answer = curl(*how, "http://origin.test/", "http://127.0.0.1/")
            assert answer.stdout == f"{node}\n{node}\n", (how, answer.stderr)


def test_connect_says_which_exit(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    with gateway.connect() as sock:
        sock.sendall(
            b"CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n%b\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
            % LOGIN
        )
        head = sock.recv(65536)
        while JP.encode() + b"\n" not in head:
            head += sock.recv(65536)
    assert head.startswith(b"HTTP/1.1 200")
    assert b"X-Exit-Node: jp000001\r\nX-Exit-Country: jp\r\n" in head
    assert b"Transfer-Encoding" not in head.partition(b"\r\n\r\n")[0]


def test_keep_alive_to_changing_targets(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    with gateway.connect() as sock:
        stream = sock.makefile("rb")
        for host, body in (("origin.test", b""), ("127.0.0.1", b"abc"), ("origin.test", b"d" * 300_000)):
            method = b"POST" if body else b"GET"
            sock.sendall(
                b"%s http://%s/ HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s"
                % (method, host.encode(), host.encode(), LOGIN, len(body), body)
            )
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            fields = dict(line.rstrip().split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
            assert fields[b"X-Exit-Node"] == b"jp000001"
            assert stream.read(int(fields[b"Content-Length"])) == (body or b"jp000001\n")


def test_hop_by_hop_fields_and_secrets_stay_here(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    seen = curl(
        "-x",
        f"http://u-country-jp:geheim@127.0.0.1:{gateway.port}",
        "http://origin.test/head",
        "-H",
        "Connection: X-Hop, close",
        "-H",
        "X-Hop: 1",
        "-H",
        "Proxy: http://evil.test/",
        "-H",
        "X-Stays: yes",
    ).stdout.lower()
    assert "x-stays: yes" in seen
    assert "via: 1.1 vpnexit" in seen
    assert "host: origin.test" in seen
    for gone in ("x-hop", "proxy", "geheim", "http://origin.test"):
        assert gone not in seen
    assert "geheim" not in gateway.log.read_text()


async def test_chunked_upload_arrives_whole(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    body = "".join(f"{i:08}" for i in range(60_000))
    answer = await asyncio.create_subprocess_exec(
        "curl",
        "-sS",
        "-m",
        "30",
        "-x",
        gateway.url,
        "-H",
        "Transfer-Encoding: chunked",
        "--data-binary",
        "@-",
        "http://origin.test/",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await answer.communicate(body.encode())
    assert out.decode() == body


@pytest.mark.parametrize("with_redis", [True, False])
async def test_a_dead_node_costs_only_what_was_on_it(
    exits: Exits, registry: Registry, gateways: Gateways, redis_server: object, with_redis: bool
) -> None:
    gateway, one, two = gateways(), exits("jp000001"), exits("jp000002")
    await ready(registry, gateway, one, two)
    if not with_redis:
        redis_server.stop()  # type: ignore[attr-defined]
    by_id = {one.id: one, two.id: two}
    with gateway.connect() as tunnel:
        tunnel.sendall(b"CONNECT 127.0.0.1:7 HTTP/1.1\r\nHost: a\r\n\r\n")
        head = tunnel.recv(65536)
        node = next(n for n in by_id if n.encode() in head)
        killed_at = time.monotonic()
        by_id[node].kill()
        answers = [curl("-x", gateway.url, "http://origin.test/").stdout for _ in range(40)]
        with pytest.raises(ConnectionResetError):
            tunnel.recv(1)
        assert time.monotonic() - killed_at < 2 + 40 * 0.2
    other = next(n for n in by_id if n != node)
    assert answers == [other + "\n"] * 40
    wait_for(lambda: any(line["reason"] == "node_lost" for line in gateway.lines()))


async def test_requests_running_all_the_time_survive_a_node(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    gateway, one, two = gateways(), exits("jp000001"), exits("jp000002")
    await ready(registry, gateway, one, two)
    stop = asyncio.Event()
    bad: list[str] = []
    seen: list[str] = []

    async def client() -> None:
        while not stop.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nConnection: close\r\n\r\n")
            try:
                answer = (await reader.read()).decode()
            except ConnectionResetError:
                answer = "reset"
            finally:
                writer.close()
            (seen if answer.startswith("HTTP/1.1 200") and answer.endswith("\n") else bad).append(answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(client())
        await asyncio.sleep(0.5)
        one.kill()
        await asyncio.sleep(1.5)
        stop.set()
    assert len(seen) > 100
    assert len(bad) <= 8, bad  # at most what was in flight on the dead node
    assert all("node_lost" in b or "reset" in b or "502" in b for b in bad), bad


async def test_nothing_serving_is_said_at_once(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp, us = gateways(), exits("jp000001"), exits("us000001")
    await ready(registry, gateway, jp, us)
    jp.kill()
    await chosen(gateway, "jp", expected=503)
    started = time.monotonic()
    answer = curl("-i", "-x", f"http://u-country-jp:x@127.0.0.1:{gateway.port}", "http://origin.test/").stdout
    assert time.monotonic() - started < 1 + STALL_S  # a dial may take 10 s
    assert answer.startswith("HTTP/1.1 503")
    assert "no exit is serving in jp now" in answer
    socks = curl("-x", f"socks5h://u-country-jp:x@127.0.0.1:{gateway.port}", "http://origin.test/")
    assert socks.returncode == 97
    assert "(1)" in socks.stderr
    assert await chosen(gateway, "us") == us.id


async def test_a_tunnel_that_is_down_is_out_and_returns_after_admission(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await ready(registry, gateway, jp)
    jp.tell("down")
    await chosen(gateway, "jp", expected=503)
    jp.tell("up")
    await asyncio.sleep(0.5)
    await chosen(gateway, "jp", expected=503)  # the new tunnel is not admitted yet
    await serve(registry, jp, generation=2)
    assert await chosen(gateway, "jp") == jp.id


async def test_fallback_only_where_the_pool_lists_it(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, us = gateways(), exits("us000001")
    await ready(registry, gateway, us)
    await chosen(gateway, "jp", expected=503)
    await registry.put_pool(Pool(country="jp", fallback=("us",)))
    assert await chosen(gateway, "jp") == us.id


async def test_users_passwords_and_countries(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    hashed = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)
    await registry.put_user(User(name="alice", password_hash=hashed, allowed_countries=("jp",)))
    jp, us = exits("jp000001"), exits("us000001")
    gateway = gateways(require_auth=True)
    await serve(registry, jp, us)

    def status(user: str, *, socks: bool = False) -> str:
        scheme = "socks5h" if socks else "http"
        proxy = f"{scheme}://{user}@127.0.0.1:{gateway.port}" if user else f"{scheme}://127.0.0.1:{gateway.port}"
        answer = curl("-x", proxy, "-w", "%{http_code} %{exitcode}", "-o", "/dev/null", "http://origin.test/")
        return answer.stdout

    wait_for(lambda: status(f"alice-country-jp:{PASSWORD.replace(' ', '%20')}") == "200 0")
    assert status(f"alice:{PASSWORD.replace(' ', '%20')}") == "200 0"
    assert status("alice:wrong") == "407 0"
    assert status("nobody:wrong") == "407 0"
    assert status("") == "407 0"
    assert status(f"alice-country-us:{PASSWORD.replace(' ', '%20')}") == "403 0"
    assert status(f"alice-country-jp:{PASSWORD.replace(' ', '%20')}", socks=True) == "200 0"
    assert status("alice:wrong", socks=True) == "000 97"
    assert status("", socks=True) == "000 97"
    assert PASSWORD not in gateway.log.read_text()


def test_internal_page_names_the_exit(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    told = json.loads(curl("-x", f"http://u-node-{JP}:x@127.0.0.1:{gateway.port}", "http://vpnexit.internal/").stdout)
    assert (told["node"], told["country"], told["exit_ip"]) == ("jp000001", "jp", "127.0.0.1")


async def test_sessions_stay_and_strict_ones_fail(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, one, two = gateways(), exits("jp000001"), exits("jp000002")
    await ready(registry, gateway, one, two)

    def ask(user: str) -> str:
        return curl("-x", f"http://{user}:x@127.0.0.1:{gateway.port}", "http://origin.test/").stdout.strip()

    first = {ask("u-country-jp-session-a1") for _ in range(10)}
    assert len(first) == 1
    assert {ask("u-country-jp-session-a1-strict")} == first
    {one.id: one, two.id: two}[next(iter(first))].kill()
    wait_for(lambda: "strict session" in ask("u-country-jp-session-a1-strict"))
    assert ask("u-country-jp-session-a1") in {one.id, two.id} - first


async def test_a_country_port_behind_a_trusted_proxy(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp, us = gateways(trusted_proxies=["127.0.0.1/32"]), exits("jp000001"), exits("us000001")
    await serve(registry, jp, us)

    def ask(port: int, user: str = "") -> bytes:
        with gateway.connect() as sock:
            header = f"PROXY TCP4 127.0.0.9 127.0.0.8 5555 {port}\r\n"
            auth = f"Proxy-Authorization: Basic {user}\r\n" if user else ""
            request = f"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n{auth}Connection: close\r\n\r\n"
            sock.sendall(header.encode() + request.encode())
            return b"".join(iter(lambda: sock.recv(65536), b""))

    wait_for(lambda: b"\njp000001\n" in ask(10392))
    wait_for(lambda: b"\nus000001\n" in ask(10840))
    assert ask(10392, "dS1jb3VudHJ5LXVzOng=").startswith(b"HTTP/1.1 400")  # u-country-us:x
    with gateway.connect() as sock:  # a listed peer that sends no header is refused
        sock.sendall(b"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        assert sock.recv(65536) == b""


def test_the_first_byte_is_timed_from_the_connected_target_on(shared_gateway: Gateway) -> None:
    gateway = shared_gateway

    def timed() -> tuple[float, float]:
        """How many, and their seconds in all."""
        prefix = "vpnexit_gateway_first_byte_seconds_"
        found = dict(line.split() for line in gateway.metrics().splitlines() if line.startswith(prefix))
        return tuple(float(found.get(f'{prefix}{what}{{country="jp"}}', 0)) for what in ("count", "sum"))  # type: ignore[return-value]

    before, took = timed()
    plain = b"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n%b\r\n" % LOGIN
    inner = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    tunnel = b"CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n%b\r\n%b" % (LOGIN, inner)
    for requests in ([plain, plain], [tunnel]):
        with gateway.connect() as sock:
            time.sleep(1.5)  # which is the client's
            for request in requests:
                sock.sendall(request)
                answer = b""
                while not answer.endswith(JP.encode() + b"\n"):
                    answer += sock.recv(65536)
    wait_for(lambda: timed()[0] == before + 2, what="each connection to the target is counted, and once")
    assert timed()[1] - took < 1.5


def test_half_close_and_reset_pass_through(shared_gateway: Gateway) -> None:
    gateway = shared_gateway

    def tunnel(port: int) -> socket.socket:
        sock = gateway.connect()
        sock.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        return sock

    with tunnel(7) as sock:
        sock.sendall(b"abc")
        sock.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: sock.recv(65536), b"")) == b"abcbye"
    sock = tunnel(19)
    sock.recv(65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock.close()
    wait_for(lambda: "vpnexit_gateway_open_connections 0.0" in gateway.metrics(), what="both sides closed")
    wait_for(lambda: gateway.lines()[-1]["reason"] == "client_reset")


async def test_bulk_both_ways_arrives_whole(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    block = bytes(range(256)) * 4096
    with gateway.connect() as sock:
        sock.sendall(b"CONNECT 127.0.0.1:7 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")

        def send() -> None:
            for _ in range(48):
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)

        sending = asyncio.create_task(asyncio.to_thread(send))
        received = await asyncio.to_thread(lambda: b"".join(iter(lambda: sock.recv(1 << 20), b"")))
        await sending
    assert received == block * 48 + b"bye"


async def test_a_reader_that_stops_holds_no_memory(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await ready(registry, gateway, jp)
    before = gateway.resident_kib()
    socks = []
    try:
        for _ in range(20):
            sock = gateway.connect()
            sock.sendall(b"CONNECT 127.0.0.1:19 HTTP/1.1\r\nHost: a\r\n\r\n")
            socks.append(sock)
        await asyncio.sleep(2)
        assert gateway.resident_kib() - before < 20 * 1024
        assert await chosen(gateway, "jp") == jp.id
    finally:
        for sock in socks:
            sock.close()


def test_targets_are_judged_by_what_is_dialled(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    for url in ("http://private.test/", "http://mixed.test/", "http://10.9.9.9/"):
        started = time.monotonic()
        assert curl("-o", "/dev/null", "-w", "%{http_code}", "-x", gateway.url, url).stdout == "403", url
        assert time.monotonic() - started < 1 + STALL_S
    assert curl("-o", "/dev/null", "-w", "%{http_code}", "-x", gateway.url, "http://absent.test/").stdout == "502"
    assert curl("-x", f"socks5h://127.0.0.1:{gateway.port}", "http://absent.test/").stderr.endswith("(4)\n")
    assert curl("-x", f"socks5h://127.0.0.1:{gateway.port}", "http://127.0.0.1:1/").stderr.endswith("(5)\n")


async def test_sigterm_lets_what_runs_end(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(drain_timeout=60), exits("jp000001")
    await ready(registry, gateway, jp)
    with gateway.connect() as sock:
        sock.sendall(b"POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 6\r\n\r\nabc")
        carried = 'vpnexit_gateway_node_connections{node="jp000001"} 1.0'
        wait_for(lambda: carried in gateway.metrics(), what="the first half is on its way")
        gateway.process.terminate()
        wait_for(lambda: not gateway.ready(), what="draining")
        sock.sendall(b"def")
        assert b"".join(iter(lambda: sock.recv(65536), b"")).endswith(b"\r\n\r\nabcdef")
    assert await asyncio.to_thread(gateway.process.wait, 20) == 0


async def test_an_empty_redis_is_not_an_empty_fleet(
    exits: Exits, registry: Registry, gateways: Gateways, redis_server: object
) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await ready(registry, gateway, jp)
    redis_server.stop()  # type: ignore[attr-defined]
    redis_server.start()  # type: ignore[attr-defined]
    await asyncio.sleep(2.5)
    assert await chosen(gateway, "jp") == jp.id

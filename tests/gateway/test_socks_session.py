"""SOCKS4, 4a and 5 as clients meet them: a real gateway, exits in namespaces of their own."""

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher

from health.model import User
from health.registry import Registry
from tests.conftest import STALL_S
from tests.gateway.harness import Exit, Gateway, curl, serve, wait_for

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]
GET = b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n"
GRANTED, REFUSED = b"\x00\x5a" + bytes(6), b"\x00\x5b" + bytes(6)


def socks4(host: str, port: int, user: bytes = b"", name: bytes | None = None, command: int = 1) -> bytes:
    head = bytes([4, command]) + port.to_bytes(2) + socket.inet_aton(host) + user + b"\0"
    return head if name is None else head + name + b"\0"


async def ready(registry: Registry, gateway: Gateway, exit_: Exit) -> None:
    await serve(registry, exit_)
    await asyncio.to_thread(
        wait_for, lambda: curl("-x", gateway.url, "http://origin.test/").stdout == exit_.id + "\n", what="serving"
    )


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := sock.recv(size - len(data))):
        data += chunk
    return data


def refusal(gateway: Gateway, data: bytes) -> bytes:
    """All that is answered, until the gateway closes; our side stays open."""
    with gateway.connect() as sock:
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.fixture
def one(shared_gateway: Gateway) -> Gateway:
    return shared_gateway


def test_curl_leaves_by_the_wanted_country(one: Gateway) -> None:
    for node in ("jp000001", "us000001"):
        proxy = f"u-node-{node}@127.0.0.1:{one.port}"
        for how in (["--socks4", proxy], ["--socks4a", proxy], ["--socks5", proxy], ["--socks5-hostname", proxy]):
            # curl itself resolves for socks4 and socks5: give it what this name means at the exit.
            local = ["--resolve", "origin.test:80:127.0.0.1"] if how[0] in ("--socks4", "--socks5") else []
            answer = curl(*how, *local, "http://origin.test/", "http://127.0.0.1/")
            assert answer.stdout == f"{node}\n{node}\n", (how, answer.stderr)
    anywhere = curl("--socks4a", f"127.0.0.1:{one.port}", "http://origin.test/").stdout
    assert anywhere in ("jp000001\n", "jp000002\n", "us000001\n")


def test_socks4_in_any_pieces_with_data_behind_it(one: Gateway) -> None:
    for asked in (socks4("127.0.0.1", 80, b"u-country-jp"), socks4("0.0.0.1", 80, b"", b"origin.test")):
        for size in (1, 3, 1000):
            data = asked + GET
            with one.connect() as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for start in range(0, len(data), size):
                    sock.sendall(data[start : start + size])
                assert read(sock, 8) == GRANTED
                assert read(sock, 15) == b"HTTP/1.1 200 OK"


def test_what_socks4_is_refused(one: Gateway) -> None:
    for asked, reason in (
        (socks4("127.0.0.1", 80, command=2), "command_unsupported"),
        (socks4("127.0.0.1", 0), "bad_request"),
        (socks4("0.0.0.1", 80, b"", b""), "bad_request"),
        (socks4("0.0.0.1", 80, b"", b"127.1"), "bad_request"),
        (socks4("127.0.0.1", 80, b"john doe"), "auth_failed"),
        (socks4("127.0.0.1", 80, b"u-planet-mars"), "bad_want"),
        (socks4("127.0.0.1", 80, b"u-country-de"), "no_node"),
        (socks4("10.9.9.9", 80), "target_forbidden"),
        (socks4("0.0.0.0", 80), "target_forbidden"),
        (socks4("0.0.0.1", 80, b"", b"private.test"), "target_forbidden"),
        (socks4("0.0.0.1", 80, b"", b"absent.test"), "name_not_found"),
        (socks4("127.0.0.1", 1), "refused"),
    ):
        assert refusal(one, asked + GET) == REFUSED, asked
        wait_for(
            lambda r=reason: [line["reason"] for line in one.lines()[-1:]] == [r], what=f"a log line with {reason}"
        )


def test_a_user_id_without_end_is_cut_early(one: Gateway) -> None:
    started = time.monotonic()
    assert refusal(one, socks4("127.0.0.1", 80)[:8] + b"u" * (4096 - 8)) == REFUSED
    assert time.monotonic() - started < 8  # not the handshake's deadline of 10 s
    with one.connect() as sock:
        try:
            sock.sendall(socks4("127.0.0.1", 80)[:8] + b"u" * 65536)
            assert read(sock, 100) == REFUSED
        except ConnectionResetError:
            pytest.fail("the refusal was lost in a reset")


async def test_socks4_has_no_password(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(require_auth=True), exits("jp000001")
    await serve(registry, jp)
    hashed = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash("")
    await registry.put_user(User(name="alice", password_hash=hashed))
    await asyncio.sleep(0.5)
    for asked in (socks4("127.0.0.1", 80), socks4("127.0.0.1", 80, b"alice"), b"\x04\x01"):
        assert refusal(gateway, asked) == REFUSED
        wait_for(lambda: gateway.lines() and gateway.lines()[-1]["reason"] == "auth_required")


def asked_for(name: bytes, port: int) -> bytes:
    return b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2)


def socks5(name: bytes, port: int) -> bytes:
    return b"\x05\x01\x00" + asked_for(name, port)


def test_each_outcome_has_one_reply(one: Gateway) -> None:
    """hardening.md: refused 05, blocked 02, name not found 04, no IPv6 08; then close."""
    for asked, code in (
        (asked_for(b"origin.test", 1), 5),
        (asked_for(b"private.test", 80), 2),
        (asked_for(b"10.9.9.9", 80), 2),
        (asked_for(b"fe80::1", 80), 2),
        (asked_for(b"2606:4700::1111", 80), 8),
        (asked_for(b"absent.test", 80), 4),
        (asked_for(b"a" * 255, 80), 4),
    ):
        sent = b"\x05\x01\x02\x01\x0cu-country-jp\x00" + asked + GET
        expected = b"\x05\x02\x01\x00\x05" + bytes([code]) + b"\x00\x01" + bytes(6)
        assert refusal(one, sent) == expected, asked


async def test_a_name_without_an_answer(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(dial_timeout=1), exits("jp000001")
    await ready(registry, gateway, jp)
    jp.tell("mute")  # no look-up is answered
    started = time.monotonic()
    assert refusal(gateway, socks5(b"never.test", 80))[:4] == b"\x05\x00\x05\x04"
    assert 0.5 < time.monotonic() - started < 2 + STALL_S
    wait_for(lambda: '"reason":"name_lookup"' in gateway.log.read_text(), what="the log line")


@pytest.mark.parametrize(
    ("login", "sent", "told"),
    [(False, b"\x05\x01\x00\x04\x01\x00", b"\x05\x00"), (True, b"\x05\x01\x02\x02\x01a\x01b", b"\x05\x02")],
)
async def test_a_wrong_version_within_is_closed_without_a_word(
    login: bool, sent: bytes, told: bytes, exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    """hardening.md, SOCKS: wrong version inside."""
    gateway, jp = gateways(require_auth=login), exits("jp000001")
    await serve(registry, jp)
    with gateway.connect() as sock:
        sock.sendall(sent)
        assert read(sock, 100) == told


async def test_socks5_logins(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    """hardening.md: NUL, a prefix of the right password, 255 bytes, an unknown user; the request before the log-in."""
    gateway, jp = gateways(require_auth=True), exits("jp000001")
    await serve(registry, jp)
    hashed = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash("secret")
    await registry.put_user(User(name="alice", password_hash=hashed))

    def login(user: bytes, password: bytes) -> bytes:
        sent = b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
        with gateway.connect() as sock:
            sock.sendall(b"\x05\x02\x00\x02" + sent + asked_for(b"origin.test", 80) + GET)
            return read(sock, 8)

    wait_for(lambda: login(b"alice", b"secret") == b"\x05\x02\x01\x00\x05\x00\x00\x01")
    for user, password in (
        (b"alice", b"secre"),
        (b"alice", b"secret\0"),
        (b"alice\0", b"secret"),
        (b"alice", b""),
        (b"alice" + b"x" * 250, b"y" * 255),
        (b"nobody", b"secret"),
    ):
        assert login(user, password) == b"\x05\x02\x01\x01", (user, password)
    assert login(b"alice", b"secret") == b"\x05\x02\x01\x00\x05\x00\x00\x01"  # nobody can lock a user out
    assert refusal(gateway, b"\x05\x02\x00\x02" + asked_for(b"origin.test", 80)) == b"\x05\x02"
    assert refusal(gateway, socks5(b"origin.test", 80)) == b"\x05\xff"

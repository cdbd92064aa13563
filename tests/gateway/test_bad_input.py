"""Bad input against a real gateway: a clear refusal each, counted, the worker lives, no descriptor stays behind."""

import contextlib
import os
import socket
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from health.model import User
from health.registry import Registry
from tests.gateway.harness import ROOT, Exit, Gateway, curl, serve, wait_for

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]
HERE = Path(__file__).parent
STOCK = 12  # sockets that the gateway may have fetched from the agent meanwhile

GET = b"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n"
SOCKS5 = b"\x05\x01\x00\x05\x01\x00"  # the greeting without a password, and CONNECT
LONG = b"a" * 63 + b"." + b"b" * 63 + b"." + b"c" * 63 + b"." + b"d" * 63  # 255 bytes: 2 more than a name may have


def login(user: bytes, password: bytes = b"x") -> bytes:
    return GET + b"Proxy-Authorization: Basic " + b64encode(user + b":" + password) + b"\r\n\r\n"


def socks_login(user: bytes, password: bytes = b"x") -> bytes:
    return b"\x05\x01\x02\x01" + bytes((len(user),)) + user + bytes((len(password),)) + password


def named(host: bytes, port: int = 80) -> bytes:
    return SOCKS5 + b"\x03" + bytes((len(host),)) + host + port.to_bytes(2)


REFUSED = [
    # what is sent, how the answer begins (b"" closes without a word)
    (b"CONNECT origin.test HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT origin.test:0 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT origin.test:65616 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT origin.test:-1 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT user@origin.test:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT [[::1]]:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT 127.1:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT 2130706433:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT origin.test:80 HTTP/9.9\r\nHost: a\r\n\r\n", b"HTTP/1.1 501"),
    (b"CONNECT or\0igin.test:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT or\rigin.test:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT origin.test%00.evil:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT :80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT origin.test:http HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT origin.test:80/a HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT origin.test:65536 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"CONNECT " + LONG + b":80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 502"),  # a name that cannot exist
    (b"CONNECT " + LONG + b"e:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET http://or\0igin.test/ HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET http://or\rigin.test/ HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET http://origin.test:0/ HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET http://origin.test:65536/ HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET http://" + LONG + b"e/ HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET http://user@origin.test/ HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET https://origin.test/ HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 501"),
    (b"GET http://origin.test/ HTTP/1.1\r\nHost: a\0b\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET http://origin.test/ HTTP/1.1\r\nHost: a/b\r\n\r\n", b"HTTP/1.1 400"),
    (login(b"al\0ice"), b"HTTP/1.1 407"),
    (login(b"al\rice"), b"HTTP/1.1 407"),
    (login(b"a" * 65), b"HTTP/1.1 407"),
    (login(b"alice-country-j\0p"), b"HTTP/1.1 400"),
    (login(b"alice-session-" + b"s" * 65), b"HTTP/1.1 400"),
    (login(b"alice-session-s\r"), b"HTTP/1.1 400"),
    (GET + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 400"),
    (GET + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"HTTP/1.1 400"),
    (GET + b"Content-Length: +3\r\n\r\nabc", b"HTTP/1.1 400"),
    (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n", b"HTTP/1.1 501"),
    (GET + b"Transfer-Encoding: xchunked\r\n\r\n", b"HTTP/1.1 501"),
    (GET + b"X: a\r\n b\r\n\r\n", b"HTTP/1.1 400"),
    (GET + b"X : a\r\n\r\n", b"HTTP/1.1 400"),
    (GET + b"X: a\rb\r\n\r\n", b"HTTP/1.1 400"),
    (GET + b"X: a\nY: b\r\n\r\n", b"HTTP/1.1 400"),
    (GET + b"Host: origin.test\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET http://origin.test/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n", b"HTTP/1.1 400"),
    (b"GET ftp://origin.test/ HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    (GET + b"X: " + b"a" * 70_000, b"HTTP/1.1 431"),
    (GET + b"Proxy-Authorization: Basic dS1jb3VudHJ5LXh4Ong=\r\n\r\n", b"HTTP/1.1 400"),  # u-country-xx:x
    (GET + b"Proxy-Authorization: Basic dS1wbGFuZXQtbWFyczp4\r\n\r\n", b"HTTP/1.1 400"),  # u-planet-mars:x
    (GET + b"Proxy-Authorization: Basic !!!\r\n\r\n", b"HTTP/1.1 400"),
    (b"\x05\x00", b"\x05\xff"),
    (b"\x05\x01\x01", b"\x05\xff"),
    (b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x00\x05\x07"),
    (b"\x05\x01\x00\x05\x01\x00\x02\x7f\x00\x00\x01\x00\x50", b"\x05\x00\x05\x08"),
    (b"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50", b"\x05\x00\x05\x01"),
    (b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00", b"\x05\x00\x05\x01"),
    (b"\x05\x01\x00\x05\x01\x00\x03\x14127.0.0.1\0.evil.test\x00\x50", b"\x05\x00\x05\x01"),
    (b"\x05\x01\x00\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x00"),
    (SOCKS5 + b"\x01\x7f\x00\x00\x01\x00\x00", b"\x05\x00\x05\x01"),
    (named(b"or\rigin.test"), b"\x05\x00\x05\x01"),
    (named(b"origin.test\0"), b"\x05\x00\x05\x01"),
    (named(b"127.1"), b"\x05\x00\x05\x01"),
    (named("\u0661.test".encode()), b"\x05\x00\x05\x01"),
    (named(b"origin.test", 0), b"\x05\x00\x05\x01"),
    (named(LONG), b"\x05\x00\x05\x04"),  # a name that cannot exist
    (socks_login(b"al\0ice"), b"\x05\x02\x01\x01"),
    (socks_login(b"al\rice"), b"\x05\x02\x01\x01"),
    (socks_login(b"a" * 255), b"\x05\x02\x01\x01"),
    (socks_login(b"alice-country-j\0p") + SOCKS5[3:] + b"\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x02\x01\x00\x05\x01"),
    (b"\x04\x01\x00\x00\x7f\x00\x00\x01user\0", b"\x00\x5b"),
    (b"\x04\x02\x00\x50\x7f\x00\x00\x01user\0", b"\x00\x5b"),
    (b"\x04\x01\x00\x50\x7f\x00\x00\x01us\rer\0", b"\x00\x5b"),
    (b"\x04\x01\x00\x50\x7f\x00\x00\x01alice-planet-mars\0", b"\x00\x5b"),
    (b"\x04\x01\x00\x50\x00\x00\x00\x01u\0or\rigin.test\0", b"\x00\x5b"),
    (b"\x04\x01\x00\x50\x00\x00\x00\x01u\0\0", b"\x00\x5b"),
    (b"\x04\x01\x00\x50\x00\x00\x00\x01u\0" + LONG + b"e\0", b"\x00\x5b"),
    (b"\x04\x01\x00\x50\x00\x00\x00\x00u\0", b"\x00\x5b"),
    (b"\x04\x01\x00\x50\x7f\x00\x00\x01" + b"u" * 65536, b"\x00\x5b"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b""),
    (b"\x00" * 65536, b""),
    (b"\xff" * 65536, b""),
    (b"PROXY TCP4 127.0.0.9 127.0.0.8 5555 10392\r\n" + GET + b"\r\n", b""),
    (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + GET + b"\r\n", b""),
]


def answer_to(gateway: Gateway, data: bytes) -> bytes:
    """Send everything, say so, and read until the gateway closes."""
    received = b""
    with gateway.connect() as sock:
        try:
            sock.sendall(data)
            with contextlib.suppress(OSError):  # closed already, where nothing is answered
                sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


def ends(gateway: Gateway) -> Counter[str]:
    """How often connections ended, by reason, as the metrics say."""
    found: Counter[str] = Counter()
    for line in gateway.metrics().splitlines():
        if line.startswith("vpnexit_gateway_connections_total{"):
            found[line.partition('reason="')[2].partition('"')[0]] += int(float(line.rpartition(" ")[2]))
    return found


def reasons(lines: list[dict[str, object]]) -> Counter[str]:
    """The same from the log."""
    return Counter(str(line["reason"]) for line in lines)


async def ready(registry: Registry, gateway: Gateway, exit_: Exit) -> None:
    await serve(registry, exit_)
    wait_for(lambda: curl("-x", gateway.url, "http://origin.test/").stdout == exit_.id + "\n", what="serving")


def serves(gateway: Gateway) -> bool:
    """One of a shared gateway's exits is asked, and answers."""
    return (
        curl("-x", f"http://u-node-jp000001:x@127.0.0.1:{gateway.port}", "http://origin.test/").stdout == "jp000001\n"
    )


async def test_refusals_are_clear_and_cost_nothing(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(handshake_timeout=5), exits("jp000001")
    await ready(registry, gateway, jp)
    for _ in range(3):
        answer_to(gateway, b"\x05\x00")
    wait_for(lambda: "vpnexit_gateway_open_connections 0.0" in gateway.metrics(), what="all of these ended")
    before, counted = gateway.descriptors(), ends(gateway)
    for sent, expected in REFUSED:
        got = answer_to(gateway, sent)
        assert got.startswith(expected) if expected else got == b"", (sent[:80], got[:200])
        if got.startswith(b"HTTP/1.1"):
            head, _, body = got.partition(b"\r\n\r\n")
            assert b"Proxy-Status: vpnexit; error=" in head
            assert b"Connection: close" in head
            assert len(body.strip().splitlines()) == 2  # status, and the reason in plain words
    wait_for(lambda: gateway.descriptors() <= before + STOCK, what="descriptors given back")
    wait_for(lambda: (ends(gateway) - counted).total() >= len(REFUSED), what="all counted")
    counted = ends(gateway) - counted
    assert counted.total() == len(REFUSED)
    wait_for(lambda: reasons(gateway.lines()) == ends(gateway), what="a log line for each")
    assert not counted.keys() & {"ok", "internal", "client_reset"}
    assert curl("-x", gateway.url, "http://origin.test/").stdout == "jp000001\n"
    assert "Traceback" not in gateway.log.read_text()


async def test_wrong_users_where_one_is_needed(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    """The same answer for an unknown user, a wrong password and bytes that no user name has."""
    (gateway, jp), user = (gateways(require_auth=True), exits("jp000001")), b"alice-country-jp"
    await serve(registry, jp)
    await registry.put_user(User(name="alice", password_hash=PasswordHasher(time_cost=2, memory_cost=19456).hash("pw")))
    wait_for(lambda: answer_to(gateway, login(user, b"pw")).startswith(b"HTTP/1.1 200"), what="serving")
    for name, password in ((b"alice\0", b"pw"), (b"bob", b"pw"), (user, b"pw\0"), (user, b"p"), (b"\r" * 9, b"")):
        plain = answer_to(gateway, login(name, password))
        assert plain.startswith((b"HTTP/1.1 407", b"HTTP/1.1 429")), (name, plain)
        assert b"jp000001" not in plain
    other = gateways(require_auth=True)
    wait_for(lambda: answer_to(other, login(user, b"pw")).startswith(b"HTTP/1.1 200"), what="serving")
    for name, password in ((b"alice\0", b"pw"), (b"bob", b"pw"), (user, b"pw\0"), (b"\xff" * 255, b"\xff" * 255)):
        assert answer_to(other, socks_login(name, password) + SOCKS5[3:]) == b"\x05\x02\x01\x01"
    for sent, expected in (
        (b"\x05\x01\x00", b"\x05\xff"),
        (b"\x05\x01\x02\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x02"),  # a request, but no log-in
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01alice\0", b"\x00\x5b" + bytes(6)),
        (GET + b"\r\n", b"HTTP/1.1 407"),
    ):
        assert answer_to(other, sent)[: len(expected)] == expected
    assert "Traceback" not in gateway.log.read_text() + other.log.read_text()


def test_frames_cut_anywhere(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    socks = b"\x05\x02\x00\x02\x01\x0cu-country-jp\x01x\x05\x01\x00\x03\x0borigin.test\x00\x50"
    connect = b"CONNECT origin.test:80 HTTP/1.1\r\nHost: a\r\n\r\n"
    before = gateway.descriptors()
    for whole in (socks, connect):
        for cut in range(len(whole)):
            answer = answer_to(gateway, whole[:cut])
            assert b"200" not in answer
            assert not answer.endswith(b"\x05\x00\x00\x01")
    wait_for(lambda: gateway.descriptors() <= before + STOCK, what="descriptors given back")
    assert serves(gateway)
    assert "Traceback" not in gateway.log.read_text()


def test_one_byte_at_a_time_works(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    for handshake, answer in (
        (b"\x05\x02\x00\x02\x01\x0cu-country-jp\x01x\x05\x01\x00\x03\x0borigin.test\x00\x50", b"\x05\x02\x01\x00\x05"),
        (b"CONNECT origin.test:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200"),
        (GET + b"\r\n", b"HTTP/1.1 200 OK"),
    ):
        with gateway.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in handshake:
                sock.sendall(bytes([byte]))
            received = b""
            while len(received) < len(answer):
                received += sock.recv(len(answer) - len(received))
            assert received == answer


def test_nothing_behind_a_refused_request_runs(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    smuggled = b"POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 7\r\n\r\nsmuggle"
    for refused in (
        b"CONNECT 10.9.9.9:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT origin.test:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT origin.test HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT origin.test:80 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic dS1jb3VudHJ5LWdiOng=\r\n\r\n",
    ):
        answer = answer_to(gateway, refused + smuggled)
        assert answer.count(b"HTTP/1.1") == 1
        assert b"smuggle" not in answer


def test_a_target_that_cuts_its_answer(shared_gateway: Gateway) -> None:
    gateway = shared_gateway
    assert curl("-x", gateway.url, "http://origin.test/cut").returncode in (18, 56)  # partial file, reset


@pytest.mark.parametrize("what", ["targets", "itself"])
def test_forbidden_targets_in_every_spelling(namespaces: None, tmp_path: Path, what: str) -> None:
    """In an empty network namespace: a bug here must not become a packet to a stranger."""
    script = f"ip link set lo up && exec {sys.executable} {HERE / 'forbidden_targets.py'} {what}"
    run = subprocess.run(
        ["unshare", "-n", "sh", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr

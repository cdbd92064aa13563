"""Bad input against a real gateway: a clear refusal each, the worker lives, no descriptor stays behind."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from health.registry import Registry
from tests.gateway.harness import ROOT, Exit, Gateway, curl, serve, wait_for

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]
HERE = Path(__file__).parent
STOCK = 12  # sockets that the gateway may have fetched from the agent meanwhile

GET = b"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n"
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
    (b"\x04\x01\x00\x50\x7f\x00\x00\x01user\0", b"\x00\x5b"),
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
            sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


async def ready(registry: Registry, gateway: Gateway, exit_: Exit) -> None:
    await serve(registry, exit_)
    wait_for(lambda: curl("-x", gateway.url, "http://origin.test/").stdout == exit_.id + "\n", what="serving")


async def test_refusals_are_clear_and_cost_nothing(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(handshake_timeout=1), exits("jp000001")
    await ready(registry, gateway, jp)
    for _ in range(3):
        answer_to(gateway, b"\x05\x00")
    before = gateway.descriptors()
    for sent, expected in REFUSED:
        got = answer_to(gateway, sent)
        assert got.startswith(expected) if expected else got == b"", (sent[:80], got[:200])
        if got.startswith(b"HTTP/1.1"):
            head, _, body = got.partition(b"\r\n\r\n")
            assert b"Proxy-Status: vpnexit; error=" in head
            assert b"Connection: close" in head
            assert len(body.strip().splitlines()) == 2  # status, and the reason in plain words
    wait_for(lambda: gateway.descriptors() <= before + STOCK, what="descriptors given back")
    assert curl("-x", gateway.url, "http://origin.test/").stdout == "jp000001\n"
    assert "Traceback" not in gateway.log.read_text()


async def test_frames_cut_anywhere(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await ready(registry, gateway, jp)
    socks = b"\x05\x02\x00\x02\x01\x0cu-country-jp\x01x\x05\x01\x00\x03\x0borigin.test\x00\x50"
    connect = b"CONNECT origin.test:80 HTTP/1.1\r\nHost: a\r\n\r\n"
    before = gateway.descriptors()
    for whole in (socks, connect):
        for cut in range(len(whole)):
            answer = answer_to(gateway, whole[:cut])
            assert b"200" not in answer
            assert not answer.endswith(b"\x05\x00\x00\x01")
    wait_for(lambda: gateway.descriptors() <= before + STOCK, what="descriptors given back")
    assert curl("-x", gateway.url, "http://origin.test/").stdout == "jp000001\n"
    assert "Traceback" not in gateway.log.read_text()


async def test_one_byte_at_a_time_works(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await ready(registry, gateway, jp)
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


async def test_silent_and_dripping_clients_are_cut(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(handshake_timeout=1), exits("jp000001")
    await ready(registry, gateway, jp)
    for first in (b"", b"GET http://origin.test/ HT", b"\x05"):
        with gateway.connect() as sock:
            started = time.monotonic()
            sock.sendall(first)
            answer = b"".join(iter(lambda s=sock: s.recv(65536), b""))
            assert time.monotonic() - started < 3 * 2
            assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


async def test_nothing_behind_a_refused_request_runs(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await ready(registry, gateway, jp)
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


async def test_a_target_that_cuts_its_answer(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await ready(registry, gateway, jp)
    assert curl("-x", gateway.url, "http://origin.test/cut").returncode in (18, 56)  # partial file, reset


async def test_many_refusals_hold_no_memory(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await ready(registry, gateway, jp)
    for _ in range(20):
        answer_to(gateway, GET + b"X: " + b"a" * 70_000)
    before = gateway.resident_kib()
    for _ in range(200):
        answer_to(gateway, GET + b"X: " + b"a" * 70_000)
    assert gateway.resident_kib() - before < 8 * 1024


def test_forbidden_targets_in_every_spelling(namespaces: None, tmp_path: Path) -> None:
    """In an empty network namespace: a bug here must not become a packet to a stranger."""
    run = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"ip link set lo up && exec {sys.executable} {HERE / 'forbidden_targets.py'}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    if "SKIP" in run.stdout:
        pytest.fail(run.stdout)

"""Run under `unshare -n` with only `lo` up: asks a gateway with a direct node for every forbidden spelling.

A canary listens on the loopback addresses that the spellings mean; it must see nothing. Prints what went wrong.
"""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from health.config import RedisSettings
from health.model import Node
from health.registry import Registry
from tests.conftest import RedisServer, redis_binary
from tests.gateway.harness import MACHINE, Gateway

LITERALS = [
    "127.0.0.1", "127.0.0.2", "127.1", "0177.0.0.1", "0x7f000001", "2130706433", "0.0.0.0", "0", "10.0.0.1",
    "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "100.100.100.200", "192.0.0.1", "198.18.0.1",
    "224.0.0.1", "239.255.255.255", "255.255.255.255", "240.0.0.1", "localhost", "LOCALHOST", "localhost.",
    "127.0.0.1.", "127.0.0.1%00", "%31%32%37.0.0.1",
]  # fmt: skip
IPV6 = [
    "::", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::",
    "2001:0:7f00:1::", "fd00:ec2::254", "fc00::1", "fe80::1", "fec0::1", "ff02::1", "100::1", "2001:db8::1",
    "::ffff:0:127.0.0.1",
]  # fmt: skip


def only_loopback() -> None:
    routes = subprocess.run(["ip", "route", "show", "table", "main"], capture_output=True, text=True, check=True).stdout
    links = subprocess.run(["ip", "-o", "link", "show", "up"], capture_output=True, text=True, check=True).stdout
    if routes.strip() or any(": lo:" not in line for line in links.splitlines()):
        sys.exit("refusing to start: this network namespace has more than lo")


class Canary:
    def __init__(self) -> None:
        self.seen: list[object] = []
        self.listeners = []
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((host, 80))
            listener.listen()
            self.listeners.append(listener)
            threading.Thread(target=self.watch, args=(listener,), daemon=True).start()

    def watch(self, listener: socket.socket) -> None:
        while True:
            sock, peer = listener.accept()
            self.seen.append(peer)
            sock.close()


def ask(gateway: Gateway, data: bytes) -> tuple[bytes, float]:
    started = time.monotonic()
    with gateway.connect() as sock:
        sock.sendall(data)
        received = b""
        try:
            while len(received) < 12 and (chunk := sock.recv(4096)):
                received += chunk
        except ConnectionResetError:
            pass
    return received, time.monotonic() - started


async def prepare(url: str) -> None:
    registry = Registry.open(RedisSettings(url=url))
    await registry.put_node(Node(id="zz000001", country="zz", kind="direct", machine=MACHINE, status="serving"))
    await registry.begin_epoch()
    await registry.close()


def attempts() -> list[tuple[str, bytes, tuple[bytes, ...]]]:
    made = []
    for host in [*LITERALS, *(f"[{text}]" for text in IPV6)]:
        name = host.encode()
        head = b"Host: a\r\n\r\n"
        made.append((f"CONNECT {host}", b"CONNECT " + name + b":80 HTTP/1.1\r\n" + head, (b"HTTP/1.1 40",)))
        made.append((f"GET {host}", b"GET http://" + name + b"/ HTTP/1.1\r\n" + head, (b"HTTP/1.1 40",)))
        raw = host.strip("[]").encode()
        request = b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(raw)]) + raw + b"\x00\x50"
        made.append((f"SOCKS name {host}", request, (b"\x05\x00\x05\x01", b"\x05\x00\x05\x02")))
    for text in IPV6:
        packed = socket.inet_pton(socket.AF_INET6, text)
        request = b"\x05\x01\x00\x05\x01\x00\x04" + packed + b"\x00\x50"
        made.append((f"SOCKS v6 {text}", request, (b"\x05\x00\x05\x02",)))
    return made


def main() -> None:
    only_loopback()
    canary, bad = Canary(), []
    binary = redis_binary()
    assert binary is not None
    redis = RedisServer(binary)
    redis.start()
    gateway = None
    try:
        asyncio.run(prepare(redis.url))
        gateway = Gateway(redis.url, Path(tempfile.mkdtemp()), allow_targets=[])
        for what, data, expected in attempts():
            answer, seconds = ask(gateway, data)
            if not answer.startswith(expected):
                bad.append(f"{what}: {answer[:60]!r}")
            if seconds > 1:
                bad.append(f"{what}: took {seconds:.1f} s")
        with socket.create_connection(("127.0.0.1", 80)):  # the canary can see
            deadline = time.monotonic() + 5
            while not canary.seen and time.monotonic() < deadline:
                time.sleep(0.01)
        if len(canary.seen) != 1:
            bad.append(f"the canary saw {canary.seen}")
    finally:
        if gateway is not None:
            gateway.close()
        redis.remove()
    print("\n".join(bad))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    os.chdir("/")
    main()

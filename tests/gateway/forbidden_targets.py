"""Run under `unshare -n` with only `lo` up: asks a gateway for every forbidden address, in every spelling and by name.

A canary listens on the loopback addresses that the spellings mean; it must see nothing. Names are looked up at a
stand-in exit, which says whatever address it is told to. argv: `targets` for that; `itself` for the listeners of the
gateway, which no client may reach through it, not even where loopback is allowed. Prints what went wrong.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from deploy import ports
from health.config import RedisSettings
from health.model import Node
from health.registry import Registry
from tests.conftest import STALL_S, RedisServer, redis_binary
from tests.gateway.harness import MACHINE, NAMES, Exit, Gateway, serve, wait_for

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
# What a name may mean, besides these: an answer that mixes a public address in.
RESOLVED = [
    "127.0.0.1", "0.0.0.0", "10.0.0.1", "172.31.255.255", "192.168.1.1", "100.100.100.200", "169.254.169.254",
    "224.0.0.1", "255.255.255.255", *IPV6,
]  # fmt: skip
MIXED = {"mixed.forbidden.test": ["1.2.3.4", "127.0.0.1"], "mixed6.forbidden.test": ["1.2.3.4", "::ffff:127.0.0.1"]}
PUBLIC = "1.2.3.4"  # given to lo here; nothing leaves this namespace
HEAD = b" HTTP/1.1\r\nHost: a\r\n\r\n"
GREETING = b"\x05\x01\x00\x05\x01\x00"
FORBIDDEN_SOCKS = b"\x05\x00\x05\x02"

Attempt = tuple[str, bytes, tuple[bytes, ...]]


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
        except (ConnectionResetError, TimeoutError):
            pass
    return received, time.monotonic() - started


async def register(url: str, *exits: Exit) -> None:
    registry = Registry.open(RedisSettings(url=url, timeout=5))
    await registry.put_node(Node(id="zz000001", country="zz", kind="direct", machine=MACHINE, status="serving"))
    await serve(registry, *exits)
    await registry.begin_epoch()
    await registry.close()


def by_literal() -> list[Attempt]:
    made: list[Attempt] = []
    for host in [*LITERALS, *(f"[{text}]" for text in IPV6)]:
        made += by_http(host, 80, (b"HTTP/1.1 40",))
        raw = host.strip("[]").encode()
        request = GREETING + b"\x03" + bytes([len(raw)]) + raw + b"\x00\x50"
        made.append((f"SOCKS name {host}", request, (b"\x05\x00\x05\x01", FORBIDDEN_SOCKS)))
    for text in IPV6:
        packed = socket.inet_pton(socket.AF_INET6, text)
        made.append((f"SOCKS v6 {text}", GREETING + b"\x04" + packed + b"\x00\x50", (FORBIDDEN_SOCKS,)))
    return made


def by_http(host: str, port: int, expected: tuple[bytes, ...]) -> list[Attempt]:
    where = f"{host}:{port}".encode()
    return [
        (f"CONNECT {host}", b"CONNECT " + where + HEAD, expected),
        (f"GET {host}", b"GET http://" + where + b"/" + HEAD, expected),
    ]


def by_socks(host: str, port: int) -> list[Attempt]:
    raw, number = host.encode(), port.to_bytes(2)
    return [
        (f"SOCKS5 {host}", GREETING + b"\x03" + bytes([len(raw)]) + raw + number, (FORBIDDEN_SOCKS,)),
        (f"SOCKS4a {host}", b"\x04\x01" + number + b"\0\0\0\x01\0" + raw + b"\0", (b"\x00\x5b",)),
    ]


def by_name(names: list[str]) -> list[Attempt]:
    return [one for name in names for one in (*by_http(name, 80, (b"HTTP/1.1 403",)), *by_socks(name, 80))]


def to_itself(port: int) -> list[Attempt]:
    """The listeners of the gateway that is asked: by address, by name, by another address of this machine."""
    made: list[Attempt] = []
    for host in ("127.0.0.1", "127.9.9.9", "localhost", PUBLIC):
        made += [*by_http(host, port, (b"HTTP/1.1 403",)), *by_socks(host, port)]
    return made


def judge(gateway: Gateway, attempts: list[Attempt]) -> list[str]:
    bad = []
    for what, data, expected in attempts:
        answer, seconds = ask(gateway, data)
        if not answer.startswith(expected):
            bad.append(f"{what}: {answer[:60]!r}")
        if seconds > 1 + STALL_S:
            bad.append(f"{what}: took {seconds:.1f} s")
    return bad


Start = Callable[..., Gateway]


def judge_targets(stack: contextlib.ExitStack, redis: RedisServer, directory: Path, start: Start) -> list[str]:
    meant = {f"n{number}.forbidden.test": [address] for number, address in enumerate(RESOLVED)} | MIXED
    NAMES.update(meant)
    exit_ = Exit("jp000001", directory)
    stack.callback(exit_.close)
    exit_.tell("inet6")
    asyncio.run(register(redis.url, exit_))
    bad = judge(start(allow_targets=[], default_country="zz"), by_literal())
    by_exit = start(allow_targets=[], default_country="jp")
    ping = by_http("n0.forbidden.test", 80, ())[0][1]
    wait_for(lambda: ask(by_exit, ping)[0].startswith(b"HTTP/1.1 403"), what="the exit answers")
    return bad + judge(by_exit, by_name(list(meant)))


def judge_itself(_: contextlib.ExitStack, redis: RedisServer, __: Path, start: Start) -> list[str]:
    """Where loopback is allowed, and from a listener on every address."""
    subprocess.run(["ip", "address", "add", f"{PUBLIC}/32", "dev", "lo"], check=True)
    asyncio.run(register(redis.url))
    port = ports.free()
    gateway = start(allow_targets=["127.0.0.0/8", "::1/128"], listen=[f"0.0.0.0:{port}"])
    gateway.port = port
    return judge(gateway, to_itself(port))


def main(what: str) -> None:
    only_loopback()
    canary = Canary()
    binary = redis_binary()
    assert binary is not None
    redis = RedisServer(binary)
    redis.start()
    with contextlib.ExitStack() as stack:
        stack.callback(redis.remove)
        directory = Path(tempfile.mkdtemp())

        def start(**settings: object) -> Gateway:
            made = Gateway(redis.url, directory, **settings)
            stack.callback(made.close)
            return made

        bad = {"targets": judge_targets, "itself": judge_itself}[what](stack, redis, directory, start)
        with socket.create_connection(("127.0.0.1", 80)):  # the canary can see
            wait_for(lambda: canary.seen, what="the canary")
        if len(canary.seen) != 1:
            bad.append(f"the canary saw {canary.seen}")
    print("\n".join(bad))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    os.chdir("/")
    main(sys.argv[1])

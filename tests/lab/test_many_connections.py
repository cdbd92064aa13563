"""A great many connections to one address and port through one container: none fails for want of a port.

An exit has 64,512 ports for one target, and the end of a connection holds its port for a minute, unless it is reused.
Since a small machine makes too few connections a minute to need that many, the container is left 2,000 of them. The
count of connections is VPNEXIT_LAB_CONNECTIONS.
"""

import asyncio
import base64
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.lab import world
from tests.lab.harness import Lab

COUNT = int(os.environ.get("VPNEXIT_LAB_CONNECTIONS", "3000"))
# Each client has ports of its own, so that what runs out is not theirs. 127.0.0.1 is HAProxy's.
CLIENTS = [f"127.0.0.{number}" for number in range(2, 34)]
SYSCTLS = {"ip_local_port_range": "1024\t65535", "tcp_tw_reuse": "1"}
FEW_PORTS = "30000\t31999"
MOST_PER_SECOND = 1000  # a port is free again a second after its connection (tcp_tw_reuse)


async def once(address: tuple[str, int], source: str, head: bytes) -> str:
    """One tunnel to the echo, used and closed from this end; returns what went wrong, or an empty string."""
    try:
        async with asyncio.timeout(15):
            reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
            try:
                writer.write(head + b"there and back")
                status = await reader.readuntil(b"\r\n\r\n")
                if not status.startswith(b"HTTP/1.1 200 "):
                    return (status + await reader.read(1000)).decode().strip().splitlines()[-1]
                return "" if await reader.readexactly(14) == b"there and back" else "something else came back"
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, EOFError, TimeoutError) as error:
        return repr(error)


@contextmanager
def few_ports(lab: Lab, node: str) -> Iterator[None]:
    def sysctl(name: str, value: str = "") -> str:
        change = ["-w", f"net.ipv4.{name}={value}"] if value else [f"net.ipv4.{name}"]
        return lab.in_namespace(node, "sysctl", "-n", *change).stdout.strip()

    assert {name: sysctl(name) for name in SYSCTLS} == SYSCTLS
    try:
        assert sysctl("ip_local_port_range", FEW_PORTS) == FEW_PORTS
        yield
    finally:
        sysctl("ip_local_port_range", SYSCTLS["ip_local_port_range"])


@pytest.mark.timeout(120 + COUNT // 100)
async def test_no_connection_fails_for_want_of_a_port(lab: Lab) -> None:
    (node, *_) = lab.nodes("jp")
    told, gateways = lab.status["proxy"], lab.gateways
    login = f"{told['user']}-country-jp-node-{node}-strict:{told['password']}"
    target = f"{world.WHOAMI}:7"
    head = (
        f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}\r\n\r\n"
    ).encode()
    failed, numbers, started = Counter[str](), iter(range(COUNT)), time.monotonic()

    async def client(source: str) -> None:
        for number in numbers:
            await asyncio.sleep(started + number / MOST_PER_SECOND - time.monotonic())
            gateway = gateways[number % len(gateways)]
            if wrong := await once((told["host"], gateway), source, head):
                failed[wrong] += 1

    with few_ports(lab, node):
        await asyncio.gather(*map(client, CLIENTS))
    print(f"{COUNT} connections in {time.monotonic() - started:.1f} s")
    assert not failed
    assert node in lab.nodes("jp")

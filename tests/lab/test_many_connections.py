"""A great many connections to one address and port through one container: none fails for want of a port.

An exit has 64,512 ports for one target, and the end of a connection holds its port for a minute. The count is
VPNEXIT_LAB_CONNECTIONS; 100,000 are more than there are ports, and take some minutes.
"""

import asyncio
import base64
import itertools
import os
import time
from collections import Counter

import pytest

from deploy.lab import world
from tests.lab.harness import Lab

COUNT = int(os.environ.get("VPNEXIT_LAB_CONNECTIONS", "3000"))
CLIENTS = 32
# Each has ports of its own, so that what runs out is not the clients'. 127.0.0.1 is HAProxy's.
SOURCES = [f"127.0.0.{number}" for number in range(2, 34)]
DOCUMENTED = {"ip_local_port_range": "1024\t65535", "tcp_tw_reuse": "1"}


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


@pytest.mark.timeout(120 + COUNT // 100)
async def test_no_connection_fails_for_want_of_a_port(lab: Lab) -> None:
    (node, *_) = lab.nodes("jp")
    for name, value in DOCUMENTED.items():
        assert lab.in_namespace(node, "cat", f"/proc/sys/net/ipv4/{name}").stdout == f"{value}\n"
    told = lab.status["proxy"]
    login = f"{told['user']}-country-jp-node-{node}-strict:{told['password']}"
    target = f"{world.WHOAMI}:7"
    head = (
        f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}\r\n\r\n"
    ).encode()
    failed, numbers = Counter[str](), iter(range(COUNT))

    async def client(source: str) -> None:
        for number in numbers:
            gateway = lab_gateways[number % len(lab_gateways)]
            if wrong := await once((told["host"], gateway), source, head):
                failed[wrong] += 1

    lab_gateways, started = lab.gateways, time.monotonic()
    await asyncio.gather(*(client(source) for source in itertools.islice(SOURCES, CLIENTS)))
    print(f"{COUNT} connections in {time.monotonic() - started:.1f} s")
    assert not failed
    assert node in lab.nodes("jp")

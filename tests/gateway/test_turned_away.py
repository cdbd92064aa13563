"""Sites that turn the exit of one address away, and one that never answers it: what that does to the exit's score.

Real gateway, upstreams, Redis and scorer; all traffic of a country goes to a single site.
"""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from health.book import ANSWERS_OF
from health.registry import Registry
from tests.gateway.harness import Gateway
from tests.gateway.test_reports import _basic, put, scorer
from tests.gateway.upstreams import Scripted, Talk, banner_and_echo, microsocks, saying, serving

BLOCKED = "127.0.0.2"
WAYS = {"jp": "refused", "us": "reset", "gb": "closed", "fr": "plain", "de": "silence"}
SILENT = "de000002"
NODES = [f"{country}00000{number}" for country in WAYS for number in (1, 2)]


def site(how: str) -> Talk:
    """Whoever does not come from the blocked address is told a banner."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("peername")[0] != BLOCKED:
            await banner_and_echo(reader, writer)
        elif how in ("reset", "plain"):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "closed":
            await reader.read(1)
        else:
            await asyncio.sleep(300)

    return talk


async def ask(gateway: Gateway, node: str, port: int) -> None:
    """One connection by a node, which says something and hangs up when it was answered or waited long enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        login = f"Proxy-Authorization: Basic {_basic(f'u-node-{node}')}\r\n"
        if WAYS[node[:2]] == "plain":
            writer.write(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{login}\r\n".encode())
        else:
            writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: a\r\n{login}\r\nhello".encode())
        with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(1 if node == SILENT else 10):
                await reader.readuntil(b"220")
    finally:
        writer.close()


async def test_only_what_is_never_answered_may_be_the_exits_fault(
    registry: Registry, gateways: Callable[..., Gateway], redis_server: object
) -> None:
    async with AsyncExitStack() as stack:
        liked, disliked = (stack.enter_context(microsocks(dials_from=address)) for address in ("127.0.0.1", BLOCKED))
        refusing = await stack.enter_async_context(Scripted(saying(b"\5\0", b"\5\5\0\1\0\0\0\0\0\0"))())
        sites = {}
        for country, how in WAYS.items():
            await put(registry, f"{country}000001", liked)
            await put(registry, f"{country}000002", f"socks5://{refusing.place}" if how == "refused" else disliked)
            sites[country] = await stack.enter_async_context(serving(site(how)))
        stack.enter_context(scorer(redis_server.url))  # type: ignore[attr-defined]
        gateway = gateways()
        most: Counter[str] = Counter()
        async with asyncio.timeout(90):
            while True:
                await asyncio.gather(*(ask(gateway, node, sites[node[:2]]) for node in NODES for _ in range(20)))
                scores = await registry.scores(NODES)
                most |= Counter({node: int(score.seen.get("dials", 0)) for node, score in scores.items()})
                enough = min(most[node] for node in NODES) >= 2 * ANSWERS_OF
                if enough and not scores[SILENT].healthy:
                    break
    assert {node: score.inputs["flow"] for node, score in scores.items() if score.inputs["flow"]} == {SILENT: -1}
    assert [node for node, score in scores.items() if score.value == 0 or not score.healthy] == [SILENT]

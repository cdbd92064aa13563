"""From a client's connection to a node's score: real gateways of two workers, a real Redis, a real scorer."""

import asyncio
import base64
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from deploy import ports
from health.model import Node, Score
from health.registry import Registry
from tests.gateway.harness import MACHINE, Gateway, wait_for
from tests.gateway.upstreams import banner_and_echo, microsocks, serving

Gateways = Callable[..., Gateway]
GOOD, DEAD = "jp000001", "jp000002"
EACH = 30
SCORER = """
import asyncio, sys
from health.config import RedisSettings, ScorerSettings
from health.scorer import run
asyncio.run(run(ScorerSettings(), RedisSettings(url=sys.argv[1])))
"""


@contextmanager
def scorer(url: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", SCORER, url], stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


async def put(registry: Registry, node_id: str, url: str) -> None:
    await registry.put_node(
        Node(id=node_id, country=node_id[:2], kind="upstream", machine=MACHINE, status="serving", upstream=url)  # type: ignore[arg-type]
    )


async def connect(gateway: Gateway, port: int, user: str = "u-country-jp") -> bytes:
    """What the target of a CONNECT says first; the head of the answer where it was refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        login = f"Proxy-Authorization: Basic {_basic(user)}\r\n"
        writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: a\r\n{login}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        return await reader.readuntil(b"\n") if b" 200 " in head.split(b"\r\n")[0] else head
    finally:
        writer.close()


def _basic(user: str) -> str:
    return base64.b64encode(f"{user}:x".encode()).decode()


@pytest.fixture
async def pool(registry: Registry) -> AsyncIterator[None]:
    """One upstream that works, and one where nobody listens."""
    with microsocks() as url:
        await put(registry, GOOD, url)
        await put(registry, DEAD, f"socks5://127.0.0.1:{ports.free()}")
        yield


async def told(registry: Registry) -> dict[str, Counter[str]]:
    """Sums over all workers, by node."""
    sums: dict[str, Counter[str]] = {}
    for report in (await registry.reports.read([], [])).reports:
        for node, counts in report.nodes.items():
            sums.setdefault(node, Counter()).update({k: int(v or 0) for k, v in counts._asdict().items()})
    return sums


async def scored(registry: Registry) -> dict[str, Score]:
    return await registry.scores([GOOD, DEAD])


async def test_workers_and_gateways_add_up_and_a_dead_upstream_loses_its_score(
    pool: None, registry: Registry, gateways: Gateways, redis_server: object
) -> None:
    both = [gateways(workers=2), gateways(workers=2)]
    with scorer(redis_server.url):  # type: ignore[attr-defined]
        async with serving(banner_and_echo) as port:
            refused = ports.free()
            async with asyncio.timeout(60):
                while len((await registry.reports.read([], [])).reports) < 4 or len(await scored(registry)) < 2:
                    await asyncio.sleep(0.05)
            for gateway in both:
                await asyncio.to_thread(wait_for, lambda one=gateway: one.usable() == 2, what="both nodes usable")
            before = await told(registry)
            for gateway in both:
                for _ in range(EACH):
                    assert (await connect(gateway, port)).startswith(b"220")
            for _ in range(5):
                assert b"502" in (await connect(both[0], refused)).split(b"\r\n")[0]

            async def all_is_told() -> bool:
                reached = (await told(registry))[GOOD] - before.get(GOOD, Counter())
                scores = await scored(registry)
                counted = (reached["reached"], reached["first_bytes"], reached["target_failures"])
                judged = scores[GOOD].seen["dials"] > EACH and scores[DEAD].inputs["failures"] > 0.1
                return counted == (2 * EACH + 5, 2 * EACH, 5) and judged and scores[DEAD].value < scores[GOOD].value / 2

            with suppress(TimeoutError):  # what is missing is told below
                async with asyncio.timeout(30):
                    while not await all_is_told():
                        await asyncio.sleep(0.1)
            after = await told(registry)
            scores = await scored(registry)
        names = [report.gateway for report in (await registry.reports.read([], [])).reports]
        assert sorted(Counter(names).values()) == [2, 2]
        new = {node: after[node] - before.get(node, Counter()) for node in after}
        assert new[GOOD]["reached"] == 2 * EACH + 5, "one that the target refused went through the node all the same"
        assert new[GOOD]["first_bytes"] == 2 * EACH
        assert new[GOOD]["target_failures"] == 5
        assert new[GOOD]["node_failures"] == 0
        assert 2 <= new[DEAD]["node_failures"] <= 4 * 5 + 5, "each worker leaves it alone after five in a row"
        assert new[DEAD]["reached"] == 0
        assert (scores[GOOD].healthy, scores[GOOD].value > 90) == (True, True)
        assert scores[GOOD].seen["dials"] > EACH
        assert scores[DEAD].value < scores[GOOD].value / 2
        assert scores[DEAD].inputs["failures"] > 0.1


async def test_while_no_scorer_lives_the_gateways_go_on_by_what_they_know(
    pool: None, registry: Registry, gateways: Gateways, redis_server: object
) -> None:
    """Its last scores stay, and a node that fails then is found out all the same."""
    gateway = gateways()
    await registry.delete_node(DEAD)
    with scorer(redis_server.url) as process:  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            while GOOD not in await scored(registry):
                await asyncio.sleep(0.05)
        process.kill()
        process.wait()
    async with serving(banner_and_echo) as port:
        await put(registry, DEAD, f"socks5://127.0.0.1:{ports.free()}")
        await asyncio.to_thread(wait_for, lambda: gateway.usable() == 2, what="both nodes usable")
        began = time.monotonic()
        for _ in range(60):
            assert (await connect(gateway, port)).startswith(b"220")
            await asyncio.sleep(0.02)
        assert time.monotonic() - began < 20

    def ejections() -> list[str]:
        return [line for line in gateway.log.read_text().splitlines() if "node ejected" in line]

    await asyncio.to_thread(wait_for, ejections, what="a line of the ejection")
    ejected = ejections()
    assert [DEAD in line for line in ejected] == [True]
    assert DEAD not in await scored(registry), "nobody scores it"


async def test_a_gateway_says_when_more_fails_than_it_may_leave_out(registry: Registry, gateways: Gateways) -> None:
    """By its own dials: no scorer lives."""
    gateway = gateways()
    for node in (GOOD, DEAD):
        await put(registry, node, f"socks5://127.0.0.1:{ports.free()}")
    panic = 'vpnexit_gateway_pool_panic{country="jp"}'
    await asyncio.to_thread(wait_for, lambda: gateway.usable() == 2, what="it knows both")

    async def fails(node: str) -> None:
        for _ in range(5):
            assert b" 502 " in (await connect(gateway, ports.free(), f"u-country-jp-node-{node}")).split(b"\r\n")[0]

    await fails(DEAD)
    assert f"{panic} 0.0" in await asyncio.to_thread(gateway.metrics), "half of them is left out"
    await fails(GOOD)
    assert f"{panic} 1.0" in await asyncio.to_thread(gateway.metrics)

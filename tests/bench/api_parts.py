"""What stands beside the API when it is measured, each run as a program of its own.

`hello`: the smallest thing aiohttp can serve, and the same with a body as large as the API's. `fleet`: 250 nodes whose
samples and scores are written once a second, as collector and scorer do.
"""

import asyncio
import random
import sys
import time
from pathlib import Path

import uvloop
from aiohttp import web

from health.config import RedisSettings
from health.model import Node, NodeKind, NodeStatus, Pool, Protocol, Sample, Score, Tunnel
from health.registry import Registry

NODES = 250
COUNTRIES = ("ar", "at", "au", "be", "br", "ca", "ch", "cz", "de", "dk", "es", "fi", "fr")
COUNTRIES += ("gb", "hk", "ie", "in", "it", "jp", "nl", "no", "pl", "se", "sg", "us")
MACHINE = "elsewhere"


async def hello(port: int, bodies: list[Path]) -> None:
    """Serve `hello` at / and each file at its name, on 127.0.0.1:`port`."""
    app = web.Application()

    async def greet(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    def constant(body: bytes) -> object:
        async def give(_: web.Request) -> web.Response:
            return web.Response(body=body, content_type="application/json")

        return give

    app.router.add_get("/", greet)
    for file in bodies:
        app.router.add_get(f"/{file.name}", constant(file.read_bytes()))  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


async def fleet(url: str) -> None:
    """Fill a registry, then keep it as lively as a fleet that serves."""
    registry = Registry.open(RedisSettings(url=url, timeout=5))
    rng = random.Random(4)
    nodes = [made_node(number) for number in range(NODES)]
    for node in nodes:
        await registry.put_node(node)
    for country in COUNTRIES:
        await registry.put_pool(Pool(country=country, desired=NODES // len(COUNTRIES)))
    await registry.begin_epoch()
    while True:
        await registry.put_samples(MACHINE, [made_sample(node, rng) for node in nodes])
        await registry.put_scores([_score(node, rng) for node in nodes])
        await asyncio.sleep(1)


def made_node(number: int) -> Node:
    """One of the fleet's nodes, with everything on record that a real one has."""
    country = COUNTRIES[number % len(COUNTRIES)]
    return Node(
        id=f"{country}{number:06x}",
        country=country,
        city="A City of Some Length",
        kind=NodeKind.VPN,
        machine=MACHINE,
        status=NodeStatus.SERVING,
        slot=f"{country}-{number // len(COUNTRIES)}",
        provider="nordvpn",
        account="main",
        protocol=Protocol.OPENVPN_UDP,
        vpn_server=f"{country}{number}.vpn.example",
        exit_ip=f"198.18.{number // 250}.{number % 250}",
        exit_country=country,
        requested_at=1_700_000_000.0 + number,
        started_at=1_700_000_000.0 + number,
    )


def made_sample(node: Node, rng: random.Random) -> Sample:
    """What is measured of it now."""
    return Sample(
        node=node.id,
        at=time.time(),
        reachable=True,
        tunnel=Tunnel.UP,
        generation=1,
        kill_switch=True,
        probe_ms=rng.uniform(5, 80),
        rx_bytes=rng.randrange(10**12),
        tx_bytes=rng.randrange(10**11),
    )


def _score(node: Node, rng: random.Random) -> Score:
    latency = rng.uniform(5, 80)
    terms = {"up": 1.0, "latency": 1 / (1 + latency / 250), "delivery": 1.0, "handshake": 1.0, "health": 4.0}
    return Score(node=node.id, at=time.time(), value=90.0, healthy=True, terms=terms, latency_ms=latency)


def main() -> None:
    """`hello PORT FILE…` or `fleet URL`."""
    mode, first, *rest = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(hello(int(first), [Path(name) for name in rest]) if mode == "hello" else fleet(first))


if __name__ == "__main__":
    main()

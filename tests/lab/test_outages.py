"""Parts that are not on the path of a connection stop, and come back."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from deploy.lab import supervisor
from deploy.lab.state import Place
from tests.lab.harness import Lab, traffic, wait_for

OPENVPN = ("us", "gb")


def server_of(lab: Lab, node: str) -> str:
    """The VPN server that a node is connected to, as the lab calls it."""
    return str(lab.api("GET", f"/api/nodes/{node}")["vpn_server"]).partition(".")[0]


async def test_vpn_servers_that_vanish(lab: Lab) -> None:
    """Out of the choice at once; replaced at another server of the country."""

    def out(country: str) -> bool:
        run = lab.curl(lab.proxy(country), "", "-o", "/dev/null", "-w", "%{http_code}", timeout=3)
        return run.stdout == "503"

    def back(country: str) -> bool:
        return lab.whoami(country) in lab.status["countries"][country]["egress"]

    async def each(condition: Callable[[str], bool], seconds: float, what: str) -> list[float]:
        waits = (asyncio.to_thread(wait_for, partial(condition, c), seconds, f"{c} {what}") for c in OPENVPN)
        return [round(took, 1) for took in await asyncio.gather(*waits)]

    before = lab.leaks()
    servers = [server_of(lab, lab.nodes(country)[0]) for country in OPENVPN]
    for server in servers:
        lab.command("stop", server)
    try:
        stopped = time.monotonic()
        outs = await each(out, 5 * 2, "is out of the choice")
        await each(back, 30 * 2, "is served by another server")
        replaced = time.monotonic() - stopped
        serving = [server_of(lab, lab.node_of(country)) for country in OPENVPN]
    finally:
        for server in servers:
            lab.command("start", server)
    after = lab.leaks()
    assert (after["leak_v4"], after["leak_v6"]) == (before["leak_v4"], before["leak_v6"])
    assert not set(serving) & set(servers)
    print(f"{OPENVPN}: out after {outs} s, both replaced {replaced:.1f} s after their servers stopped")


async def test_a_server_that_is_away_for_a_moment(lab: Lab) -> None:
    server = server_of(lab, lab.nodes("us")[0])
    lab.command("stop", server)
    lab.command("start", server)

    def back() -> bool:
        return lab.whoami("us") in lab.status["countries"]["us"]["egress"]

    took = await asyncio.to_thread(wait_for, back, 60, "us serves again")
    print(f"us serves again {took:.1f} s after its server came back")


async def test_a_wireguard_server_that_stops(lab: Lab) -> None:
    """The other exit carries on; nothing that began after the black hole was noticed fails."""
    before, server = lab.leaks(), server_of(lab, lab.node_of("jp"))
    async with traffic(lab, "jp") as seen:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(lab.command, "stop", server)
        stopped = time.monotonic()
        await asyncio.sleep(12)
        await asyncio.to_thread(lab.command, "start", server)
    assert not [answer for answer in seen.bad() if answer[0] > stopped + 5 * 2], seen.bad()
    after = lab.leaks()
    assert (after["leak_v4"], after["leak_v6"]) == (before["leak_v4"], before["leak_v6"])


@pytest.mark.parametrize(
    "parts", [("redis",), ("collector", "collector2", "scorer", "scorer2", "control")], ids=lambda parts: parts[0]
)
async def test_traffic_goes_on_without(lab: Lab, parts: tuple[str, ...]) -> None:
    nodes = {country: lab.nodes(country) for country in lab.status["countries"]}
    place = Place(Path(lab.status["state_dir"]))
    async with traffic(lab, "jp", 2) as jp, traffic(lab, "us", 1) as us, traffic(lab, "gb", 1) as gb:
        for part in parts:
            await asyncio.to_thread(supervisor.ask, place, "stop", part)
        await asyncio.sleep(30)
        for part in reversed(parts):
            await asyncio.to_thread(supervisor.ask, place, "start", part)
        await asyncio.to_thread(wait_for, lab.settled, 30, "converged")
        await asyncio.sleep(2)
    for seen in (jp, us, gb):
        assert len(seen.answers) > 100
        assert not seen.bad()
    # Nothing was started, stopped or doubled meanwhile.
    assert {country: lab.nodes(country) for country in nodes} == nodes
    containers = lab.docker("ps", "--filter", "label=io.vpnexit.fleet", "--format", "{{.Names}}").split()
    assert sorted(containers) == sorted(f"vpnexit-{node}" for ids in nodes.values() for node in ids)
    scores = [node["score"] for node in lab.api("GET", "/api/nodes") if node["status"] == "running"]
    assert all(score and score > 0 for score in scores)

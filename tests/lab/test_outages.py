"""Parts that are not on the path of a connection stop, and come back."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.lab.harness import Lab, traffic, wait_for

OPENVPN = {"us": "us1", "gb": "uk1"}


async def test_vpn_servers_that_stop_and_return(lab: Lab) -> None:
    def out(country: str) -> bool:
        run = lab.curl(lab.proxy(country), "", "-o", "/dev/null", "-w", "%{http_code}", timeout=3)
        return run.stdout == "503"

    def back(country: str) -> bool:
        return lab.whoami(country) in lab.status["countries"][country]["egress"]

    async def each(condition: Callable[[str], bool], seconds: float, what: str) -> list[float]:
        waits = (asyncio.to_thread(wait_for, partial(condition, c), seconds, f"{c} {what}") for c in OPENVPN)
        return [round(took, 1) for took in await asyncio.gather(*waits)]

    before = lab.leaks()
    for server in OPENVPN.values():
        lab.command("stop", server)
    try:
        outs = await each(out, 5 * 2, "is out of the choice")
        await asyncio.sleep(25)  # longer than a tunnel is given to come back by itself
    finally:
        for server in OPENVPN.values():
            lab.command("start", server)
    backs = await each(back, 60, "is back by itself")
    after = lab.leaks()
    assert (after["leak_v4"], after["leak_v6"]) == (before["leak_v4"], before["leak_v6"])
    print(f"{list(OPENVPN)}: out after {outs} s, back {backs} s after the servers")


async def test_a_wireguard_server_that_stops(lab: Lab) -> None:
    """The other exit carries on; nothing that began after the black hole was noticed fails."""
    before = lab.leaks()
    async with traffic(lab, "jp") as seen:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(lab.command, "stop", "jp1")
        stopped = time.monotonic()
        await asyncio.sleep(12)
        await asyncio.to_thread(lab.command, "start", "jp1")
    assert not [answer for answer in seen.bad() if answer[0] > stopped + 5 * 2], seen.bad()
    after = lab.leaks()
    assert (after["leak_v4"], after["leak_v6"]) == (before["leak_v4"], before["leak_v6"])


@pytest.mark.parametrize("parts", [("redis",), ("collector", "scorer", "control")], ids="+".join)
async def test_traffic_goes_on_without(lab: Lab, parts: tuple[str, ...]) -> None:
    nodes = {country: lab.nodes(country) for country in lab.status["countries"]}
    async with traffic(lab, "jp", 2) as jp, traffic(lab, "us", 1) as us, traffic(lab, "gb", 1) as gb:
        for part in parts:
            await asyncio.to_thread(lab.command, "stop", part)
        await asyncio.sleep(30)
        for part in reversed(parts):
            await asyncio.to_thread(lab.command, "start", part)
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

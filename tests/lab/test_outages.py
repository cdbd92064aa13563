"""Parts that are not on the path of a connection stop, and come back."""

import asyncio
import time

import pytest

from tests.lab.harness import Lab, traffic, wait_for


@pytest.mark.parametrize(("country", "server"), [("us", "us1"), ("gb", "uk1")])
async def test_a_vpn_server_that_stops_and_returns(lab: Lab, country: str, server: str) -> None:
    def status() -> str:
        run = lab.curl(lab.proxy(country), "", "-o", "/dev/null", "-w", "%{http_code}", timeout=3)
        return run.stdout

    before = lab.leaks()
    lab.command("stop", server)
    stopped = time.monotonic()
    try:
        out = await asyncio.to_thread(wait_for, lambda: status() == "503", 5 * 2, "out of the choice")
    finally:
        lab.command("start", server)
    back = await asyncio.to_thread(
        wait_for, lambda: lab.whoami(country) in lab.status["countries"][country]["egress"], 60, "back by itself"
    )
    after = lab.leaks()
    assert (after["leak_v4"], after["leak_v6"]) == (before["leak_v4"], before["leak_v6"])
    print(f"{country}: out after {out:.1f} s, back {back:.1f} s after the server ({time.monotonic() - stopped:.1f} s)")


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


@pytest.mark.parametrize("part", ["redis", "collector", "scorer", "control"])
async def test_traffic_goes_on_without(lab: Lab, part: str) -> None:
    nodes = {country: lab.nodes(country) for country in lab.status["countries"]}
    async with traffic(lab, "jp", 2) as jp, traffic(lab, "us", 1) as us, traffic(lab, "gb", 1) as gb:
        await asyncio.to_thread(lab.command, "stop", part)
        await asyncio.sleep(30)
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

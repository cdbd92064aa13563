"""What can go wrong below control, on real Docker and real tunnels: told in the record, in the log and as an event, and
whatever serves serves on."""

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.lab.harness import Lab, traffic, wait_for

IMAGE, KEPT = "vpnexit-exit", "vpnexit-exit-kept"
Events = list[dict[str, Any]]
Lines = Callable[[], list[dict[str, Any]]]


async def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    await asyncio.to_thread(wait_for, condition, seconds, what)


async def test_a_docker_daemon_that_stops_and_comes_back_costs_no_node(lab: Lab, events: Events) -> None:
    nodes, said = {country: lab.nodes(country) for country in lab.status["countries"]}, lab.log_of("control")

    def docker(state: str) -> bool:
        return bool(lab.api("GET", "/api/health")["docker"] == state)

    async with traffic(lab, "jp", 1) as jp, traffic(lab, "us", 1) as us, traffic(lab, "gb", 1) as gb:
        await asyncio.to_thread(lab.command, "stop", "docker")
        try:
            await until(lambda: docker("down"), 20, "control says that Docker is gone")
            await asyncio.sleep(5)
        finally:
            await asyncio.to_thread(lab.command, "start", "docker")
        await until(lambda: docker("ok"), 20, "control lists again")
        await until(lab.settled, 60, "settled")
    assert {country: lab.nodes(country) for country in nodes} == nodes
    assert [seen.bad() for seen in (jp, us, gb)] == [[], [], []]
    troubles = {one["subject"]: one["reason"] for one in events if one["kind"] == "trouble"}
    assert troubles.keys() == {"engine", "events"}
    assert troubles["engine"].startswith("Docker d")
    await until(lambda: _subjects(events, "recovered") == {"engine", "events"}, 20, "the end of both is told")
    logged = [(one["part"], one["reason"]) for one in said() if one["event"] == "trouble"]
    assert ("engine", troubles["engine"]) in logged
    # It listens again: what happens from now on is seen at once.
    (victim,) = nodes["us"]
    await asyncio.to_thread(lab.docker, "kill", f"vpnexit-{victim}")
    await until(lambda: lab.nodes("us") not in ([], [victim]), 30, "a killed node is replaced")
    assert await _told(said, events, victim) == "its container was killed by signal 9"


@pytest.fixture
def other_image(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Takes the exits' image away; with an entry point, puts one that runs this instead in its place."""
    broken: list[str] = []

    def change(entrypoint: str = "") -> None:
        lab.docker("rmi", IMAGE)
        if entrypoint:
            made = lab.docker("create", KEPT)
            broken.append(lab.docker("commit", "--change", f'ENTRYPOINT ["{entrypoint}"]', made, IMAGE))
            lab.docker("rm", made)

    lab.docker("tag", IMAGE, KEPT)
    yield change
    lab.docker("tag", KEPT, IMAGE)
    lab.docker("rmi", KEPT)
    for image in broken:
        wait_for(
            lambda image=image: lab.try_docker("rmi", image).returncode == 0,
            30,
            "the broken image is not used any more",
        )


@pytest.mark.parametrize(
    ("entrypoint", "reason"),
    [
        ("", f"image {IMAGE} is missing: build it first"),
        ("/bin/false", "its container ended with status 1 (internal)"),
    ],
    ids=["missing", "exits at once"],
)
async def test_an_image_that_starts_no_exit_is_told_and_not_tried_in_a_circle(
    lab: Lab, events: Events, other_image: Callable[[str], None], entrypoint: str, reason: str
) -> None:
    (serving,), said = lab.nodes("gb"), lab.log_of("control")
    await asyncio.to_thread(other_image, entrypoint)
    started = time.monotonic()
    node = await asyncio.to_thread(lambda: lab.api("POST", "/api/nodes/gb/start")["node_id"])
    await until(partial(_failed, lab, node), 20, f"{node} fails")
    assert lab.api("GET", f"/api/nodes/{node}")["reason"] == reason
    await asyncio.sleep(max(0.0, started + 10 - time.monotonic()))
    assert lab.api("GET", "/api/pools/gb")["reason"] == reason
    assert lab.nodes("gb") == [serving]
    assert await _told(said, events, node) == reason
    failed = [one for one in events if one.get("status") == "failed"]
    assert {one["reason"] for one in failed} == {reason}
    assert len(failed) <= 10, "tried again after 100 ms, doubling"
    await asyncio.to_thread(lab.docker, "tag", KEPT, IMAGE)
    await until(lambda: len(lab.nodes("gb")) == 2, 60, "it serves once the image is there")
    await asyncio.to_thread(lab.wish, "gb", 1)


@pytest.mark.timeout(400)
async def test_a_tunnel_that_never_comes_up_is_told_over_each_protocol(lab: Lab, events: Events) -> None:
    said, silent = lab.log_of("control"), {}
    used = {
        node["vpn_server"].partition(".")[0] for node in lab.api("GET", "/api/nodes") if node["status"] == "running"
    }
    for country, servers in {"jp": ("jp1", "jp2", "jp3"), "us": ("us1", "us2"), "gb": ("uk1", "uk2")}.items():
        (silent[country],) = set(servers) - used
    before = {country: lab.nodes(country) for country in silent}
    for server in silent.values():
        await asyncio.to_thread(lab.command, "stop", server)
    try:
        nodes = {country: lab.api("POST", f"/api/nodes/{country}/start")["node_id"] for country in silent}
        for country, node in nodes.items():
            await until(
                lambda node=node: lab.api("GET", f"/api/nodes/{node}")["status"] == "error", 60, f"{node} fails"
            )
            reason = await _told(said, events, node)
            print(f"{country}: {reason}")
            assert reason.startswith("tunnel not up within 30 s: ")
            assert lab.api("GET", f"/api/nodes/{node}")["reason"] == reason
            # Where no other server is free, the pool says that in between.
            await until(partial(_pool_says, lab, country, reason), 60, f"the pool of {country} says so")
        assert {country: lab.nodes(country) for country in silent} == before
    finally:
        for country, server in silent.items():
            lab.wish(country, len(before[country]))
            await asyncio.to_thread(lab.command, "start", server)


def _failed(lab: Lab, node: str) -> bool:
    return bool(lab.api("GET", f"/api/nodes/{node}")["status"] == "error")


def _pool_says(lab: Lab, country: str, reason: str) -> bool:
    return bool(lab.api("GET", f"/api/pools/{country}")["reason"] == reason)


def _subjects(events: Events, kind: str) -> set[str]:
    return {one["subject"] for one in events if one["kind"] == kind}


async def _told(said: Lines, events: Events, node: str) -> str:
    """Why a node failed, as log and events say alike, once each."""

    def logged() -> list[str]:
        return [one["reason"] for one in said() if one.get("node") == node and one.get("status") == "failed"]

    def published() -> list[str]:
        return [one["reason"] for one in events if one["subject"] == node and one.get("status") == "failed"]

    await until(lambda: logged() and published(), 10, f"the end of {node} is in the log and an event")
    (reason,) = logged()
    assert published() == [reason]
    return reason

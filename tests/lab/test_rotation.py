"""Nodes come quickly, and go without anybody noticing: starts are timed, a node is rotated under load."""

import asyncio
import base64
import time
from dataclasses import dataclass, field

import pytest

from tests.lab.harness import Lab, wait_for

TUNNELS, PER_SECOND, SECONDS = 1000, 200, 15
AT_ONCE = 50
DRAIN_S = 30.0  # control.drain_deadline, which the lab leaves as it is


@dataclass
class Carried:
    """What the clients saw: when each live tunnel ended and through which node it went; what failed of the new ones."""

    node_of: list[str] = field(default_factory=list)
    ended: dict[int, float] = field(default_factory=dict)
    answered: int = 0
    failed: list[str] = field(default_factory=list)


@pytest.mark.parametrize(("country", "within"), [("jp", 4.0), ("us", 8.0), ("gb", 8.0)])
def test_a_node_serves_soon_after_its_start(lab: Lab, country: str, within: float) -> None:
    started = time.monotonic()
    node = lab.api("POST", f"/api/nodes/{country}/start")["node_id"]
    try:
        wait_for(lambda: node in lab.nodes(country), 2 * within, f"{node} serves")
        print(f"{country}: serving {time.monotonic() - started:.1f} s after the request")
    finally:
        lab.api("DELETE", f"/api/nodes/{node}/stop")


async def test_a_rotation_under_load_is_not_noticed(lab: Lab) -> None:
    """1,000 live tunnels and 200 new connections a second: none fails, none is cut before the drain deadline."""
    seen, before = Carried(), lab.nodes("jp")
    held = await _hold(lab, seen)
    watching = [asyncio.create_task(_watch(reader, number, seen)) for number, (reader, _) in enumerate(held)]
    try:
        fresh = asyncio.create_task(_fresh(lab, seen))
        await asyncio.sleep(2)
        # Both have the same share, unless one has just come back.
        old = max(before, key=seen.node_of.count)
        asked = time.monotonic()
        new = (await asyncio.to_thread(lab.api, "POST", f"/api/nodes/{old}/restart"))["node_id"]
        await fresh
        assert new in await asyncio.to_thread(lab.nodes, "jp")
        status = (await asyncio.to_thread(lab.api, "GET", f"/api/nodes/{old}"))["status"]
        assert status in ("stopping", "stopped")
        assert seen.failed == []
        assert seen.answered > PER_SECOND * SECONDS * 0.9
        through_old = {number for number, node in enumerate(seen.node_of) if node == old}
        assert len(through_old) > TUNNELS / 10, "the rotated node carried a part of the tunnels"
        # Those of other nodes live on; those of the old one have until its deadline, which began after it was asked.
        assert {number for number in seen.ended if number not in through_old} == set()
        assert all(at - asked > DRAIN_S for at in seen.ended.values())
    finally:
        for task in watching:
            task.cancel()
        for _, writer in held:
            writer.close()
        await asyncio.gather(*watching, return_exceptions=True)


def test_an_idle_node_that_gives_way_is_gone_within_seconds(lab: Lab) -> None:
    """No gateway has a connection through it: there is nothing to wait for."""
    (old,) = lab.nodes("us")
    new = lab.api("POST", f"/api/nodes/{old}/restart")["node_id"]
    wait_for(lambda: lab.api("GET", f"/api/nodes/{old}")["status"] in ("stopping", "stopped"), 30, f"{old} drains")
    took = wait_for(lambda: lab.api("GET", f"/api/nodes/{old}")["status"] == "stopped", DRAIN_S / 2, f"{old} is gone")
    print(f"drained within {took:.1f} s")
    assert lab.nodes("us") == [new]


async def _tunnel(lab: Lab) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    told = lab.status["proxy"]
    login = base64.b64encode(f"{told['user']}-country-jp:{told['password']}".encode()).decode()
    host = lab.status["whoami"].removeprefix("http://").rstrip("/")
    reader, writer = await asyncio.open_connection(told["host"], told["port"])
    writer.write(
        f"CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\nProxy-Authorization: Basic {login}\r\n\r\n".encode()
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    if not head.startswith("HTTP/1.1 200 "):
        raise OSError(head.splitlines()[0])
    node = next(line.partition(": ")[2] for line in head.splitlines() if line.lower().startswith("x-exit-node"))
    return reader, writer, node


async def _hold(lab: Lab, seen: Carried) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    held = []
    for _ in range(0, TUNNELS, AT_ONCE):
        for reader, writer, node in await asyncio.gather(*(_tunnel(lab) for _ in range(AT_ONCE))):
            held.append((reader, writer))
            seen.node_of.append(node)
    return held


async def _watch(reader: asyncio.StreamReader, number: int, seen: Carried) -> None:
    try:
        await reader.read(1)
    except OSError:
        pass
    seen.ended[number] = time.monotonic()


async def _fresh(lab: Lab, seen: Carried) -> None:
    """New connections at a steady rate, one request on each."""
    host = lab.status["whoami"].removeprefix("http://").rstrip("/")

    async def one() -> None:
        try:
            async with asyncio.timeout(20):
                reader, writer, _ = await _tunnel(lab)
                try:
                    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                    answer = await reader.read()
                finally:
                    writer.close()
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise OSError(f"answered {answer[:40]!r}")
            seen.answered += 1
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            seen.failed.append(repr(error))

    async with asyncio.TaskGroup() as group:
        for _ in range(SECONDS * 10):
            for _ in range(PER_SECOND // 10):
                group.create_task(one())
            await asyncio.sleep(0.1)

"""What is measured, against an endpoint that does everything wrong, over sockets of another network namespace."""

import asyncio
import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from health import speed_line, speed_measure
from health.reasons import Reason
from health.speed_measure import Measured, longest, measure
from tests.conftest import STALL_S
from tests.health.speed_node import SpeedNode, connect, settings

NODE = "jp3f9a1c"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeedNode]:
    made = SpeedNode(NODE, tmp_path_factory.mktemp("speed"))
    yield made
    made.close()


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[SpeedNode]:
    made = SpeedNode(NODE, tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_line, "CONNECT_S", 1.0)


async def test(node: SpeedNode, **how: Any) -> Measured:
    return await measure(settings(**how), NODE, node.path, connect)


async def stats(node: SpeedNode) -> dict[str, Any]:
    agent = connect(node.path)
    await agent.connect()
    _, (handed,) = await agent.sockets(1)
    sock = socket.socket(fileno=handed.detach())
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", 80))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"GET /stats?n=0 HTTP/1.1\r\n\r\n")
    answer = await reader.read()
    writer.close()
    agent.close()
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


async def test_both_ways_and_the_round_trip(node: SpeedNode) -> None:
    for last in (False, False, False, False, True):
        before = await stats(node)
        found = await test(node)
        after = await stats(node)
        assert (found.reason, found.error) == (Reason.OK, "")
        assert found.moved == 2_000_000
        assert [after[way] - before[way] for way in ("sent", "read")] == [1_000_000, 1_000_000]
        assert found.download_mbps is not None
        assert found.upload_mbps is not None
        assert found.latency_ms is not None
        # Of a few one is not disturbed by a machine that stands still.
        if last or (min(found.download_mbps, found.upload_mbps) > 100 and found.latency_ms < 50):
            break
    assert found.download_mbps > 100
    assert found.upload_mbps > 100
    assert 0 < found.latency_ms < 50


async def test_a_slow_line_is_measured_as_slow(node: SpeedNode) -> None:
    """The stand-in paces both ways to a megabyte a second: 8 Mbit/s, less what its pauses take longer."""
    began = time.monotonic()
    found = await test(node, down="paced?n={bytes}", up="paced-sink", bytes=100_000_000, seconds=2)
    assert found.error == ""
    assert found.download_mbps is not None
    assert found.upload_mbps is not None
    assert 1 < found.download_mbps <= 8.5
    # What the kernels' buffers take before the reader's pace tells: up to some megabytes on loopback.
    assert 1 < found.upload_mbps < 60
    assert time.monotonic() - began < 6 + STALL_S


@pytest.mark.parametrize(
    ("how", "reason", "words"),
    [
        ({"down": "missing"}, Reason.TARGET_PROTOCOL, "answered 404"),
        ({"down": "html"}, Reason.TARGET_PROTOCOL, "HTML page"),
        ({"down": "short"}, Reason.TARGET_PROTOCOL, "sent 1,000 bytes and ended, of 1,000,000"),
        ({"down": "cut?n={bytes}"}, Reason.TARGET_RESET, "cut the connection"),
        ({"down": "drip"}, Reason.TARGET_TIMEOUT, "bytes came in 1 s"),
        ({"down": "dripping-head"}, Reason.TARGET_TIMEOUT, "did not answer in time"),
        ({"down": "large-head"}, Reason.TARGET_PROTOCOL, "malformed"),
        ({"down": "silent"}, Reason.TARGET_TIMEOUT, "did not answer in time"),
        ({"down": "closing"}, Reason.TARGET_RESET, "cut the connection"),
        ({"down": "garbage"}, Reason.TARGET_PROTOCOL, "malformed"),
        ({"down": "redirect"}, Reason.TARGET_PROTOCOL, "answered 302: redirects are not followed"),
        ({"up": "missing"}, Reason.TARGET_PROTOCOL, "answered 404"),
        ({"up": "redirect"}, Reason.TARGET_PROTOCOL, "answered 302"),
        ({"up": "early", "bytes": 20_000_000}, Reason.TARGET_PROTOCOL, "answered after"),
        ({"up": "closing", "bytes": 20_000_000}, Reason.TARGET_RESET, "connection"),
        ({"host": "127.0.0.1:81"}, Reason.REFUSED, "ECONNREFUSED"),
        ({"host": "private.test"}, Reason.TARGET_FORBIDDEN, "10.9.9.9"),
        ({"host": "mixed.test"}, Reason.TARGET_FORBIDDEN, "127.0.0.1"),
        ({"host": "multicast.test"}, Reason.TARGET_FORBIDDEN, "224.0.0.1"),
        ({"host": "nowhere.test"}, Reason.NAME_NOT_FOUND, "no IPv4 address"),
    ],
)
async def test_what_an_endpoint_does_wrong_is_said(
    node: SpeedNode, how: dict[str, Any], reason: Reason, words: str
) -> None:
    began = time.monotonic()
    found = await test(node, **how)
    assert found.reason is reason, found.error
    assert words in found.error
    assert "error" not in found.error
    assert found.upload_mbps is None
    assert (found.download_mbps is not None) == ("up" in how)
    assert time.monotonic() - began < 4 + STALL_S


async def test_redirects_lead_nowhere(own_node: SpeedNode) -> None:
    await test(own_node, down="redirect")
    assert (await stats(own_node))["requests"] == {"redirect": 1, "stats": 1}


async def test_names_are_looked_up_at_the_node(node: SpeedNode) -> None:
    assert (await test(node, host="public.test")).error == ""


async def test_an_endpoint_without_end_is_left_after_so_many_bytes(own_node: SpeedNode) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = await test(own_node, down="endless", bytes=50_000_000)
    assert found.error == ""
    sent = (await stats(own_node))["sent"]
    # Beyond what was counted: what was on its way, in the kernels' buffers.
    assert sent < 50_000_000 + 12_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 20_000  # KiB


async def test_an_endpoint_without_end_is_left_after_so_long(own_node: SpeedNode) -> None:
    began = time.monotonic()
    found = await test(own_node, down="endless", up="silent", bytes=1_000_000_000, seconds=0.5)
    assert found.download_mbps is not None
    assert time.monotonic() - began < 2.5 + STALL_S


async def test_a_line_that_takes_everything_at_once_does_not_hold_the_loop() -> None:
    """Nothing in such an upload ever waits: others of the loop would not be served, nor its own end seen."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    body = speed_measure._Body(100 * 65_536 + 1)
    sizes = [len(piece) async for piece in body.chunks()]
    task.cancel()
    body.begun.cancel()
    assert sizes == [65_536] * 100 + [1]
    assert turns >= 100


@pytest.mark.parametrize("how", ["kill", "down"])
@pytest.mark.parametrize("way", [{"down": "paced?n={bytes}"}, {"up": "paced-sink"}])
async def test_a_node_that_dies_ends_its_test_at_once(own_node: SpeedNode, way: dict[str, str], how: str) -> None:
    running = asyncio.create_task(test(own_node, bytes=100_000_000, seconds=20, **way))
    async with asyncio.timeout(60):
        while not {"paced", "paced_sink"} & (await stats(own_node))["requests"].keys():
            await asyncio.sleep(0.05)
    if how == "kill":
        own_node.kill()
    else:
        own_node.tell("down")
    died = time.monotonic()
    found = await running
    assert time.monotonic() - died < 0.5 + STALL_S  # the test itself would take 20 s
    assert found.reason is Reason.NODE_LOST
    assert "lost in the middle of the test" in found.error


async def test_a_node_that_is_not_there_or_not_up(own_node: SpeedNode, tmp_path: Path) -> None:
    found = await measure(settings(), NODE, str(tmp_path / "nothing"), connect)
    assert (found.reason, found.error) == (
        Reason.NODE_DOWN,
        "the node's agent: agent not reachable: No such file or directory",
    )
    found = await measure(settings(), "us000001", own_node.path, connect)
    assert (found.reason, found.error) == (Reason.NODE_DOWN, f"the node's agent: it says it is '{NODE}'")
    for command, words in (("down", "the tunnel is down"), ("mute", "did not answer")):
        own_node.tell(command)
        async with asyncio.timeout(30):
            while words not in (found := await measure(settings(), NODE, own_node.path, connect)).error:
                await asyncio.sleep(0.05)


async def test_nothing_stays_open(node: SpeedNode) -> None:
    await test(node)
    before = len(os.listdir("/proc/self/fd"))
    for how in ({}, {"down": "endless"}, {"down": "cut?n={bytes}"}, {"up": "silent"}, {"host": "127.0.0.1:81"}):
        await test(node, **how)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(asyncio.all_tasks()) == 1


async def test_it_never_takes_longer_than_said(node: SpeedNode) -> None:
    how = {"down": "silent", "up": "silent", "seconds": 0.5}
    began = time.monotonic()
    await test(node, **how)
    assert time.monotonic() - began < longest(settings(**how)) + STALL_S  # type: ignore[arg-type]


test.__test__ = False  # type: ignore[attr-defined]

"""One connection to the endpoint: which address is dialled, over which socket, and what its failures are called."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from health import handover
from health.agent_client import Addresses, AgentClient, AgentError
from health.reasons import Reason
from health.speed_line import SpeedError, connection, explained
from tests.health.speed_node import SpeedNode, connect

NODE = "jp3f9a1c"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeedNode]:
    made = SpeedNode(NODE, tmp_path_factory.mktemp("speed"))
    yield made
    made.close()


@pytest.fixture
async def agent(node: SpeedNode) -> AsyncIterator[AgentClient]:
    made = connect(node.path)
    await made.connect()
    yield made
    made.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "public.test"])
async def test_it_leaves_by_the_nodes_own_socket(agent: AgentClient, host: str) -> None:
    """Nothing listens on port 80 in the namespace of the tests."""
    async with connection(agent, host) as (session, ours), session.get(f"http://{host}/bytes?n=10") as response:
        assert await response.read() == bytes(10)
        peer = {"127.0.0.1": "127.0.0.1", "public.test": "9.9.9.9"}[host]
        assert ours.getpeername() == (peer, 80)
    assert ours.fileno() == -1
    assert session.closed


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("private.test", Reason.TARGET_FORBIDDEN),
        ("mixed.test", Reason.TARGET_FORBIDDEN),
        ("multicast.test", Reason.TARGET_FORBIDDEN),
        ("nowhere.test", Reason.NAME_NOT_FOUND),
        ("127.1", Reason.NAME_NOT_FOUND),  # no address in four parts: a name
    ],
)
async def test_names_that_lead_nowhere_or_inside(
    agent: AgentClient, monkeypatch: pytest.MonkeyPatch, host: str, reason: Reason
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(agent, "sockets", asked.append)
    with pytest.raises(SpeedError) as caught:
        async with connection(agent, host):
            pass
    assert (caught.value.reason, asked) == (reason, [])


async def test_a_look_up_that_fails(agent: AgentClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: Any, **__: Any) -> Addresses:
        return Addresses((), 0.0, "timeout")

    monkeypatch.setattr(agent, "resolve", resolve)
    with pytest.raises(SpeedError, match="could not be resolved through the tunnel"):
        async with connection(agent, "slow.example.org"):
            pass


async def test_one_connection_and_no_second(agent: AgentClient) -> None:
    async with connection(agent, "127.0.0.1") as (session, _):
        assert (await session.get("http://127.0.0.1/bytes?n=1")).status == 200
        with pytest.raises(SpeedError, match="ECONNRESET"), explained():
            await session.get("http://127.0.0.1/bytes?n=1")


async def test_nothing_is_left_of_one_that_was_given_up(agent: AgentClient) -> None:
    before = len(os.listdir("/proc/self/fd"))

    async def hang() -> None:
        async with connection(agent, "127.0.0.1") as (session, _):
            await session.get("http://127.0.0.1/silent?n=0")

    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hang(), 0.1)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), Reason.TARGET_TIMEOUT),
        (aiohttp.ServerTimeoutError(), Reason.TARGET_TIMEOUT),
        (aiohttp.ServerDisconnectedError(), Reason.TARGET_RESET),
        (aiohttp.ClientPayloadError(), Reason.TARGET_RESET),
        (aiohttp.ClientOSError(errno.EPIPE, "x"), Reason.TARGET_RESET),
        (ConnectionResetError(), Reason.TARGET_RESET),
    ],
)
def test_what_failures_are_called(error: Exception, reason: Reason) -> None:
    with pytest.raises(SpeedError) as caught, explained():
        raise error
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, Reason.REFUSED),
        (errno.EHOSTUNREACH, Reason.HOST_UNREACHABLE),
        (errno.ENETUNREACH, Reason.NETWORK_UNREACHABLE),
        (errno.ETIMEDOUT, Reason.TARGET_TIMEOUT),
        (errno.EIO, Reason.HOST_UNREACHABLE),
    ],
)
def test_by_the_number_of_the_error(number: int, reason: Reason) -> None:
    key: Any = None
    with pytest.raises(SpeedError, match=errno.errorcode[number]) as caught, explained():
        raise aiohttp.ClientConnectorError(key, OSError(number, "x"))
    assert caught.value.reason is reason


async def test_a_socket_of_our_own_namespace_is_refused(agent: AgentClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """AgentClient sees to it; a test that went around it would leave from this machine."""
    _, (handed,) = await agent.sockets(1)
    there = handed.getsockopt(socket.SOL_SOCKET, handover.SO_NETNS_COOKIE, 8)
    handed.close()
    monkeypatch.setattr(handover, "own_netns_cookie", lambda: there)
    with pytest.raises(AgentError, match="own network namespace"):
        async with connection(agent, "127.0.0.1"):
            pass

"""What a dial tells the choice: who failed, who worked, where a session moved, and how many may try again."""

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network

import pytest

from gateway import dial_tasks
from gateway.dial import Dialler
from gateway.errors import LinkError
from gateway.links import Link
from gateway.metrics import DIAL_FAILURES, Metrics
from gateway.poller import Poller
from gateway.want import Want
from gateway.wire.base import Target, WireError
from health.model import Node
from health.reasons import Reason
from tests.gateway.stub_fleet import StubFleet, StubLink, node

JP = Want(country="jp")
BROKEN = "jp00000b"


class RealLink(StubLink):
    """Leaves by this machine; the one of the broken node has no sockets, and is used first."""

    def pop_socket(self, address: str) -> socket.SocketType | None:
        if self.node_id == BROKEN:
            return None
        return socket.SocketType(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    async def fetch_socket(self, address: str) -> socket.SocketType:
        raise LinkError("no sockets today")

    @property
    def in_flight(self) -> int:
        return 0 if self.node_id == BROKEN else 100


class RealFleet(StubFleet):
    def open_link(self, node: Node) -> Link:
        return RealLink(node.id)


@pytest.fixture
def fleet() -> RealFleet:
    return RealFleet(node(BROKEN), node("jp000001"))


@pytest.fixture
async def dialler(fleet: RealFleet) -> AsyncIterator[Dialler]:
    poller = Poller(asyncio.get_running_loop())
    yield Dialler(fleet, poller, [ip_network("127.0.0.0/8")], 5, Metrics())
    await fleet.close()
    poller.close()


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield Target("127.0.0.1", port, ip_address("127.0.0.1"))
    server.close()


async def test_a_node_that_fails_is_left_and_after_five_times_ejected(
    fleet: RealFleet, dialler: Dialler, target: Target
) -> None:
    for _ in range(5):
        assert fleet.choose(JP, "").node.id == BROKEN
        dialled = await dial_tasks.dial(dialler, JP, "", target)
        assert dialled.node.id == "jp000001"
        dialled.release()
    assert fleet.choose(JP, "").node.id == "jp000001"


async def test_a_target_that_refuses_speaks_for_the_node(fleet: RealFleet, dialler: Dialler) -> None:
    with socket.socket() as bound:  # not listening
        bound.bind(("127.0.0.1", 0))
        nowhere = Target("127.0.0.1", bound.getsockname()[1], ip_address("127.0.0.1"))
        for _ in range(4):
            fleet.failed("jp000001")
        for _ in range(4):
            with pytest.raises(WireError) as refused:
                await dial_tasks.dial(dialler, Want(node="jp000001"), "", nowhere)
            assert refused.value.reason is Reason.REFUSED
    fleet.failed("jp000001")
    assert fleet.choose(JP, "", tried={BROKEN}).node.id == "jp000001"
    assert len(fleet.roster.group(JP, (), asyncio.get_running_loop().time()).best) == 2, "nobody is ejected"


async def test_a_session_that_had_to_move_says_from_where(fleet: RealFleet, dialler: Dialler, target: Target) -> None:
    fleet.sessions.place(("u", "s"), BROKEN, 60, asyncio.get_running_loop().time())
    fleet.choose(Want(country="jp", session="s"), "u")
    dialled = await dial_tasks.dial(dialler, Want(country="jp", session="s"), "u", target)
    assert (dialled.node.id, dialled.moved) == ("jp000001", BROKEN)
    dialled.release()
    with pytest.raises(WireError, match="this strict session is on jp000001"):
        await dial_tasks.dial(dialler, Want(node=BROKEN, session="s", strict=True), "u", target)


async def test_a_dial_beyond_the_retry_budget_fails_and_the_budget_comes_back(
    fleet: RealFleet, dialler: Dialler, target: Target
) -> None:
    taken = 0
    while fleet.may_retry(fleet.in_flight):
        taken += 1
    assert taken == 20  # of the 100 that the other node carries
    with pytest.raises(WireError, match="too many others try again") as refused:
        await dial_tasks.dial(dialler, JP, "", target)
    assert refused.value.reason is Reason.NODE_DIAL
    fleet.retried()
    for _ in range(3):
        (await dial_tasks.dial(dialler, JP, "", target)).release()


async def test_a_failed_dial_is_counted_once_where_it_failed(
    fleet: RealFleet, dialler: Dialler, target: Target
) -> None:
    (await dial_tasks.dial(dialler, JP, "", target)).release()
    with pytest.raises(WireError, match="no sockets today"):  # nowhere else to try
        await dial_tasks.dial(dialler, Want(node=BROKEN), "", target)
    while fleet.may_retry(fleet.in_flight):
        pass
    with pytest.raises(WireError, match="too many others try again"):
        await dial_tasks.dial(dialler, JP, "", target)
    assert dialler.metrics.counters()[DIAL_FAILURES] == {("jp", BROKEN, "node_dial"): [3]}


async def test_leaving_a_node_that_went_down_costs_no_retry(
    fleet: RealFleet, dialler: Dialler, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(address: str) -> socket.SocketType:
        fleet.link(BROKEN).up = False
        raise LinkError("the agent is gone")

    while fleet.may_retry(fleet.in_flight):
        pass
    monkeypatch.setattr(fleet.link(BROKEN), "fetch_socket", dies)
    dialled = await dial_tasks.dial(dialler, JP, "", target)
    assert dialled.node.id == "jp000001"
    dialled.release()

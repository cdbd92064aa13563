"""The dial's rules: one deadline, whose fault a failure is, which node is tried next, and what the client is told."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import ClassVar

import pytest

from deploy import ports
from gateway import balance, dial_tasks
from gateway import dial as module
from gateway.dial import ADDRESSES_TRIED, PATIENCE_S, TARGET_ERRORS, Dial, Dialler
from gateway.errors import LinkError
from gateway.links import Link
from gateway.metrics import Metrics
from gateway.poller import Poller
from gateway.upstream import UpstreamLink
from gateway.want import Want
from gateway.wire.base import Target, WireError
from gateway.wire.http_reply import error_response
from gateway.wire.socks import error_reply
from health.agent.protocol import NOT_FOUND
from health.agent_client import Addresses
from health.model import Node, Pool
from health.reasons import WIRE, Fault, Reason
from tests.conftest import STALL_S
from tests.gateway.stub_fleet import StubFleet, node
from tests.gateway.upstreams import Scripted, banner_and_echo, saying, serving

JP = Want(country="jp")
ALLOW = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
SOCKS_OK = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38"
Make = Callable[..., Dialler]


class OwnLink(Link):
    """Sockets of this machine. `trouble` is raised instead; `names` is what the exit resolves, by family."""

    def __init__(self, node_id: str) -> None:
        super().__init__(node_id)
        self.up = True
        self.asked = 0
        self.stock: list[socket.SocketType] = []
        self.trouble: LinkError | None = None
        self.hang = 0.0
        self.names: dict[str, dict[str, tuple[str, ...]]] = {}

    @property
    def usable(self) -> bool:
        return self.up

    @property
    def generation(self) -> int:
        return 1

    def pop_socket(self, address: str) -> socket.SocketType | None:
        return self.stock.pop() if self.stock else None

    async def fetch_socket(self, address: str) -> socket.SocketType:
        self.asked += 1
        await asyncio.sleep(self.hang)
        if self.trouble is not None:
            raise self.trouble
        return unconnected(socket.AF_INET6 if ":" in address else socket.AF_INET)

    async def _look_up(self, name: str, family: str) -> Addresses:
        found = self.names.get(name, {}).get(family, ())
        return Addresses(found, 60, "" if found else NOT_FOUND)


def unconnected(family: int = socket.AF_INET) -> socket.SocketType:
    return socket.SocketType(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


class Failing(socket.SocketType):
    """Its connect() fails with `code`, at once or, `later`, as if the network had said so."""

    def __init__(self, code: int, *, later: bool) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.code, self.later = code, later

    def connect_ex(self, address: object) -> int:
        return errno.EINPROGRESS if self.later else self.code

    def getsockopt(self, *option: int) -> int:  # type: ignore[override]
        assert option == (socket.SOL_SOCKET, socket.SO_ERROR)
        return self.code


class Bystander:
    """A tunnel that does nothing."""

    def abort(self) -> None:
        pass


class OwnFleet(StubFleet):
    """Nodes of this machine, and upstream nodes; counts what it is told of them."""

    def __init__(self, *records: Node | Pool) -> None:
        self.told: list[tuple[str, str]] = []
        self.seconds: list[float] = []
        self.budget = 1000
        super().__init__(*records)
        self.roster.worked = self._worked  # type: ignore[method-assign]

    def open_link(self, node: Node) -> Link | None:
        return UpstreamLink(node.id, node.upstream, None) if node.upstream else OwnLink(node.id)

    def own(self, node_id: str) -> OwnLink:
        found = self.links[node_id]
        assert isinstance(found, OwnLink)
        return found

    def failed(self, node_id: str) -> None:
        self.told.append(("failed", node_id))

    def _worked(self, node_id: str, seconds: float) -> None:
        self.told.append(("worked", node_id))
        self.seconds.append(seconds)

    def may_retry(self, active: int) -> bool:
        self.budget -= 1
        return self.budget >= 0

    def busy(self, node_id: str) -> None:
        """Others are chosen before it."""
        self.own(node_id).tunnels.update(Bystander() for _ in range(1000))


@pytest.fixture
async def poller() -> AsyncIterator[Poller]:
    made = Poller(asyncio.get_running_loop())
    yield made
    made.close()


@pytest.fixture
def dialler(poller: Poller) -> Make:
    return lambda fleet, timeout=10.0: Dialler(fleet, poller, ALLOW, timeout, Metrics())


def at(port: int, host: str = "127.0.0.1") -> Target:
    return Target(host, port, ip_address(host))


def upstream(node_id: str, talker: Scripted) -> Node:
    return node(node_id, kind="upstream", upstream=f"socks5://{talker.place}")


async def refusal(dialler: Dialler, target: Target, want: Want = JP) -> WireError:
    with pytest.raises(WireError) as refused:
        await dial_tasks.dial(dialler, want, "u", target)
    return refused.value


async def test_what_the_node_could_not_do_another_one_of_the_pool_does(dialler: Make) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"), node("us000001"))
    fleet.own("jp000001").trouble = LinkError("the agent gave no socket")
    async with serving(banner_and_echo) as port:
        for _ in range(10):
            (dialled := await dial_tasks.dial(dialler(fleet), JP, "u", at(port))).release()
            assert dialled.node.id == "jp000002"
    assert fleet.own("us000001").asked == 0
    assert fleet.own("jp000001").asked > 0
    assert {("failed", "jp000001"), ("worked", "jp000002")} == set(fleet.told)


async def test_the_time_another_node_lost_is_not_a_nodes_own(dialler: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 5.0)  # nobody is dialled besides
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    fleet.own("jp000001").trouble, fleet.own("jp000001").hang = LinkError("the agent gave no socket"), 1.0
    async with serving(banner_and_echo) as port:
        while not fleet.own("jp000001").asked:
            (dialled := await dial_tasks.dial(dialler(fleet), JP, "u", at(port))).release()
    assert dialled.seconds > 0.9
    assert fleet.seconds[-1] < 0.9


async def test_never_another_country_when_all_of_the_pool_failed(dialler: Make) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"), node("us000001"))
    for node_id in ("jp000001", "jp000002"):
        fleet.own(node_id).trouble = LinkError("the agent gave no socket")
    error = await refusal(dialler(fleet), at(ports.free()))
    assert (error.reason, WIRE[error.reason].fault) == (Reason.NODE_DIAL, Fault.NODE)
    assert error.detail == "no other exit is serving there; the last one tried: the agent gave no socket"
    assert [fleet.own(i).asked for i in ("jp000001", "jp000002", "us000001")] == [1, 1, 0]


async def test_a_pool_that_went_down_meanwhile_has_no_node(dialler: Make) -> None:
    fleet = OwnFleet(node("jp000001"))
    link = fleet.own("jp000001")
    link.trouble, link.hang = LinkError("the agent is gone"), 0.1
    asyncio.get_running_loop().call_later(0.05, setattr, link, "up", False)
    assert (await refusal(dialler(fleet), at(ports.free()))).reason is Reason.NO_NODE


async def test_what_the_target_refused_is_not_tried_again(dialler: Make) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    error = await refusal(dialler(fleet), at(ports.free()))
    assert error.reason is Reason.REFUSED
    assert sum(fleet.own(i).asked for i in ("jp000001", "jp000002")) == 1
    assert ("failed", "jp000001") not in fleet.told
    assert ("failed", "jp000002") not in fleet.told


async def test_without_budget_nothing_is_tried_again(dialler: Make) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    fleet.budget = 0
    for node_id in ("jp000001", "jp000002"):
        fleet.own(node_id).trouble = LinkError("the agent gave no socket")
    assert (await refusal(dialler(fleet), at(ports.free()))).reason is Reason.NODE_DIAL
    assert sum(fleet.own(i).asked for i in ("jp000001", "jp000002")) == 1


async def test_one_deadline_for_all_tries(dialler: Make) -> None:
    silent = [Scripted(saying(b"\x05\x00", b"", then_close=False)) for _ in range(4)]
    async with silent[0](), silent[1](), silent[2](), silent[3]():
        fleet = OwnFleet(*(upstream(f"jp00000{number}", one) for number, one in enumerate(silent)))
        began = time.monotonic()
        error = await refusal(dialler(fleet, 1.0), Target("slow.test", 80))
        took = time.monotonic() - began
        assert error.reason is Reason.TARGET_TIMEOUT
        assert 0.9 < took < 2 + STALL_S
        assert sum(bool(one.seen) for one in silent) >= 2  # the first one did not use up the time of all
        assert fleet.told == []  # all of them say nothing: that may well be the target
        await fleet.close()


async def test_the_deadline_holds_for_other_nodes_too(dialler: Make) -> None:
    fleet = OwnFleet(node("jp000001"))
    fleet.own("jp000001").hang = 30
    began = time.monotonic()
    assert (await refusal(dialler(fleet, 0.3), at(ports.free()))).reason is Reason.NODE_DIAL  # it gives no socket
    assert time.monotonic() - began < 1 + STALL_S
    assert fleet.told == [("failed", "jp000001")]


async def test_an_upstream_is_blamed_once_another_node_reached_the_target(dialler: Make) -> None:
    broken, good = Scripted(saying(b"\x05\x00", b"\x05\x01")), Scripted(saying(b"\x05\x00", SOCKS_OK, then_close=False))
    async with broken(), good():
        fleet = OwnFleet(upstream("jp000001", broken), upstream("jp000002", good))
        while not broken.seen:
            (dialled := await dial_tasks.dial(dialler(fleet), JP, "u", Target("origin.test", 80))).release()
            assert dialled.node.id == "jp000002"
        assert fleet.told.count(("failed", "jp000001")) == len(broken.seen)
        await fleet.close()


async def test_upstreams_that_all_fail_on_a_target_are_not_blamed(dialler: Make) -> None:
    broken = [Scripted(saying(b"\x05\x00", b"\x05\x01")) for _ in range(2)]
    async with broken[0](), broken[1]():
        fleet = OwnFleet(*(upstream(f"jp00000{number}", one) for number, one in enumerate(broken)))
        assert (await refusal(dialler(fleet), Target("nothing.test", 80))).reason is Reason.NODE_DIAL
        assert [len(one.seen) for one in broken] == [1, 1]
        assert fleet.told == []
        await fleet.close()


@pytest.mark.parametrize(
    ("code", "reason", "reply", "status"),
    [
        (errno.ECONNREFUSED, Reason.REFUSED, 5, 502),
        (errno.ECONNRESET, Reason.REFUSED, 5, 502),
        (errno.ETIMEDOUT, Reason.TARGET_TIMEOUT, 6, 504),
        (errno.EHOSTUNREACH, Reason.HOST_UNREACHABLE, 4, 502),
        (errno.ENETUNREACH, Reason.NETWORK_UNREACHABLE, 3, 502),
        (errno.EADDRNOTAVAIL, Reason.NODE_DIAL, 1, 502),
        (errno.EPERM, Reason.NODE_DIAL, 1, 502),
        (errno.EIO, Reason.NODE_DIAL, 1, 502),
    ],
)
@pytest.mark.parametrize("told_by_the_network", [True, False])
async def test_errno(
    code: int,
    reason: Reason,
    reply: int,
    status: int,
    told_by_the_network: bool,
    dialler: Make,
) -> None:
    fleet = OwnFleet(node("jp000001"))
    fleet.own("jp000001").stock = [Failing(code, later=told_by_the_network)]
    error = await refusal(dialler(fleet), at(80))
    if not told_by_the_network:  # no route, no port left: nobody but the node was asked
        reason, reply, status = Reason.NODE_DIAL, 1, 502
    assert error.reason is reason
    assert error_reply(error.reason)[1] == reply
    assert error_response(error.reason).startswith(b"HTTP/1.1 %d " % status)


def test_every_errno_of_the_target_is_the_targets() -> None:
    assert {WIRE[reason].fault for reason in TARGET_ERRORS.values()} == {Fault.TARGET}


async def test_an_error_on_a_tunnel_that_went_down_is_the_nodes(dialler: Make) -> None:
    fleet = OwnFleet(node("jp000001"))

    fleet.own("jp000001").stock = [Failing(errno.ECONNREFUSED, later=True)]
    asyncio.get_running_loop().call_soon(setattr, fleet.own("jp000001"), "up", False)
    assert (await refusal(dialler(fleet), at(80))).reason is Reason.NO_NODE


@pytest.mark.parametrize(
    ("target", "reason", "reply", "status", "told"),
    [
        (Target("nothing.test", 80), Reason.NAME_NOT_FOUND, 4, 502, b"dns_error"),
        (Target("six.test", 80), Reason.NAME_NOT_FOUND, 4, 502, b"dns_error"),
        (at(80, "::1"), Reason.ADDRESS_UNSUPPORTED, 8, 400, b"http_request_error"),
        (at(80, "10.0.0.1"), Reason.TARGET_FORBIDDEN, 2, 403, b"destination_ip_prohibited"),
        (Target("mixed.test", 80), Reason.TARGET_FORBIDDEN, 2, 403, b"destination_ip_prohibited"),
    ],
)
async def test_what_an_exit_without_ipv6_answers(
    target: Target, reason: Reason, reply: int, status: int, told: bytes, dialler: Make
) -> None:
    fleet = OwnFleet(node("jp000001"))
    fleet.own("jp000001").names = {
        "six.test": {"inet6": ("::1",)},
        "mixed.test": {"inet": ("127.0.0.1", "10.0.0.1")},
    }
    error = await refusal(dialler(fleet), target)
    assert error.reason is reason
    assert error_reply(reason)[1] == reply
    answer = error_response(reason, error.detail)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nProxy-Status: vpnexit; error=" + told + b"; details=" in answer
    assert fleet.own("jp000001").asked == 0


async def test_no_node_is_said_without_a_dial(dialler: Make) -> None:
    fleet = OwnFleet(node("us000001"))
    error = await refusal(dialler(fleet), at(80))
    assert (error.reason, WIRE[error.reason].fault) == (Reason.NO_NODE, Fault.NO_NODE)
    assert b"Proxy-Status: vpnexit; error=destination_unavailable; details=" in error_response(
        error.reason, error.detail
    )
    assert fleet.own("us000001").asked == 0


# a dial under way


class Waiting:
    """Somebody who began a dial, and what they were told."""

    def __init__(self, dialler: Dialler, target: Target) -> None:
        self.told: list[Dial] = []
        self.dial = dialler.start(JP, "u", target, (), self.told.append)

    async def end(self) -> Dial:
        async with asyncio.timeout(20):
            while not self.told:
                await asyncio.sleep(0.001)
        (dial,) = self.told
        return dial


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_it_needs_no_task_where_everything_is_at_hand(dialler: Make) -> None:
    fleet, link = OwnFleet(node("jp000001")), None
    async with serving(banner_and_echo) as port:
        link = fleet.own("jp000001")
        link.names = {"origin.test": {"inet": ("127.0.0.1",)}}
        await link.resolve("origin.test")
        link.stock = [unconnected()]
        made = dialler(fleet)
        waiting = Waiting(made, Target("origin.test", port))
        assert not made.tasks
        assert link.in_flight == 1
        dialled = (await waiting.end()).result()
        assert (link.asked, link.in_flight) == (0, 1)
        assert await dialled.channel.read() == b"220 ready\r\n"
        dialled.release()
        assert (link.in_flight, dialled.closed) == (0, True)


@pytest.mark.parametrize("hang", [0.0, 30.0])
async def test_whoever_leaves_leaves_nothing(dialler: Make, hang: float) -> None:
    """While it connects, and while a socket is fetched."""
    fleet = OwnFleet(node("jp000001"))
    link, before = fleet.own("jp000001"), descriptors()
    link.hang = hang
    link.stock = [] if hang else [Failing(0, later=True)]
    made = dialler(fleet)
    waiting = Waiting(made, at(80))
    await asyncio.sleep(0)
    waiting.dial.cancel()
    waiting.dial.cancel()
    await asyncio.sleep(0.01)
    assert (waiting.told, link.in_flight, len(made.tasks), len(made.patience), len(made.deadlines)) == ([], 0, 0, 0, 0)
    assert descriptors() == before


async def test_a_node_that_dies_under_it_is_left_for_another(dialler: Make) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    async with serving(banner_and_echo) as port:
        for node_id in ("jp000001", "jp000002"):
            fleet.own(node_id).hang = 0.05
        waiting = Waiting(dialler(fleet), at(port))
        while not (dying := [link for link in fleet.links.values() if link.dials]):
            await asyncio.sleep(0)
        dying[0].abort_dials()
        dialled = (await waiting.end()).result()
        assert dialled.link is not dying[0]
        assert (dying[0].in_flight, dialled.link.in_flight) == (0, 1)
        dialled.release()


async def test_the_addresses_of_a_name_are_tried_in_turn(dialler: Make) -> None:
    fleet = OwnFleet(node("jp000001"))
    link = fleet.own("jp000001")
    async with serving(banner_and_echo) as port:
        link.names = {"two.test": {"inet": ("127.0.0.3", "127.0.0.1")}}
        (dialled := await dial_tasks.dial(dialler(fleet), JP, "u", Target("two.test", port))).release()
        assert dialled.seconds < 1 + STALL_S
        assert link.asked == 2
    link.names = {"many.test": {"inet": tuple(f"127.0.0.{n}" for n in range(1, 9))}}
    error = await refusal(dialler(fleet), Target("many.test", ports.free()))
    assert error.reason is Reason.REFUSED
    assert link.asked == 2 + ADDRESSES_TRIED


async def test_a_refused_socket_is_closed(dialler: Make) -> None:
    fleet, before = OwnFleet(node("jp000001")), descriptors()
    for _ in range(3):
        assert (await refusal(dialler(fleet), at(ports.free()))).reason is Reason.REFUSED
    assert descriptors() == before
    assert fleet.own("jp000001").in_flight == 0


# the second way


class Vanishing(socket.SocketType):
    """Its SYN gets lost: it goes to a listener whose queue is full."""

    made: ClassVar[list["Vanishing"]] = []

    def __init__(self, port: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.port = port
        self.made.append(self)

    def connect_ex(self, address: object) -> int:
        return super().connect_ex(("127.0.0.1", self.port))


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port that connections hang at."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = listener.getsockname()[1]
    filling = [unconnected() for _ in range(4)]
    for sock in filling:
        sock.connect_ex(("127.0.0.1", port))
    yield port
    for sock in [*filling, listener, *Vanishing.made]:
        sock.close()
    Vanishing.made.clear()


def hanging(fleet: OwnFleet, port: int, *node_ids: str) -> None:
    for node_id in node_ids:
        fleet.own(node_id).stock = [Vanishing(port) for _ in range(3)]


def all_left(made: Dialler) -> bool:
    """No second dial counts as running any more."""
    return all(made.seconds.take(0) for _ in range(balance.RETRIES_ALWAYS)) and not made.seconds.take(0)


async def test_who_gets_no_answer_is_served_by_another_node(dialler: Make, deaf: int) -> None:
    """A tunnel that died without a word: nobody waits for its end to be noticed."""
    fleet = OwnFleet(node("jp000001"), node("jp000002"), node("us000001"))
    fleet.busy("jp000002")
    hanging(fleet, deaf, "jp000001")
    async with serving(banner_and_echo) as port:
        made, began = dialler(fleet), time.monotonic()
        waiting = Waiting(made, at(port))
        dialled = (await waiting.end()).result()
        assert PATIENCE_S <= time.monotonic() - began < 2 * 1 + STALL_S
        assert (dialled.node.id, waiting.dial.node and waiting.dial.node.id) == ("jp000002", "jp000002")
        assert await dialled.channel.read() == b"220 ready\r\n"
        assert (fleet.own("jp000001").in_flight, len(made.patience), len(made.deadlines)) == (0, 0, 0)
        assert ("failed", "jp000001") not in fleet.told  # it may have been the site
        assert (all_left(made), fleet.budget) == (True, 1000)  # given back, and none of the retries'
        dialled.release()


async def test_the_first_one_may_still_be_the_first(dialler: Make, deaf: int) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    fleet.busy("jp000002")
    hanging(fleet, deaf, "jp000002")
    async with serving(banner_and_echo) as port:
        fleet.own("jp000001").hang = PATIENCE_S + 0.2  # for a socket
        before = descriptors()
        dialled = (await Waiting(dialler(fleet), at(port)).end()).result()
        assert dialled.node.id == "jp000001"
        assert (fleet.own("jp000002").asked, len(fleet.own("jp000002").dials)) == (0, 0)
        assert len(fleet.own("jp000002").stock) == 2  # it was tried
        dialled.release()
        assert descriptors() <= before


@pytest.mark.parametrize("want", [Want(country="jp", session="a"), Want(node="jp000001")])
async def test_what_must_not_move_waits(dialler: Make, deaf: int, want: Want) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    hanging(fleet, deaf, "jp000001", "jp000002")
    with pytest.raises(WireError) as caught:
        await dial_tasks.dial(dialler(fleet, 1.0), want, "u", at(80))
    assert caught.value.reason is Reason.TARGET_TIMEOUT
    assert sum(3 - len(fleet.own(node_id).stock) for node_id in ("jp000001", "jp000002")) == 1
    assert fleet.budget == 1000


async def test_both_without_an_answer_end_at_the_deadline(dialler: Make, deaf: int) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    hanging(fleet, deaf, "jp000001", "jp000002")
    made, began = dialler(fleet, 1.0), time.monotonic()
    waiting = Waiting(made, at(80))
    assert ((await waiting.end()).error or WireError(Reason.OK, "")).reason is Reason.TARGET_TIMEOUT
    assert 0.9 < time.monotonic() - began < 2 + STALL_S
    assert (len(made.patience), len(made.deadlines), all_left(made)) == (0, 0, True)
    assert [link.in_flight for link in fleet.links.values()] == [0, 0]
    assert not [told for told in fleet.told if told[0] == "failed"]


async def test_a_first_one_that_fails_leaves_it_to_the_second(dialler: Make, deaf: int) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    fleet.busy("jp000002")
    fleet.own("jp000002").hang = 0.4
    hanging(fleet, deaf, "jp000001")
    async with serving(banner_and_echo) as port:
        waiting = Waiting(dialler(fleet), at(port))
        while not fleet.own("jp000002").asked:
            await asyncio.sleep(0.01)
        fleet.own("jp000001").abort_dials()
        dialled = (await waiting.end()).result()
        assert (dialled.node.id, fleet.own("jp000002").asked) == ("jp000002", 1)
        dialled.release()


async def test_a_second_one_that_fails_leaves_it_to_the_first(dialler: Make, deaf: int) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    fleet.busy("jp000002")
    fleet.own("jp000002").trouble = LinkError("no socket")
    async with serving(banner_and_echo) as port:
        fleet.own("jp000001").hang = PATIENCE_S + 0.3
        dialled = (await Waiting(dialler(fleet), at(port)).end()).result()
        assert (dialled.node.id, fleet.own("jp000002").asked) == ("jp000001", 1)
        dialled.release()


async def test_few_are_tried_twice(dialler: Make, deaf: int) -> None:
    fleet = OwnFleet(node("jp000001"), node("jp000002"))
    made = dialler(fleet, 1.0)
    while made.seconds.take(0):
        pass
    hanging(fleet, deaf, "jp000001", "jp000002")
    assert (await refusal(made, at(80))).reason is Reason.TARGET_TIMEOUT
    assert sum(len(fleet.own(node_id).stock) for node_id in ("jp000001", "jp000002")) == 5


async def test_who_leaves_takes_both_along(dialler: Make, deaf: int) -> None:
    fleet, before = OwnFleet(node("jp000001"), node("jp000002")), descriptors()
    hanging(fleet, deaf, "jp000001", "jp000002")
    made = dialler(fleet)
    waiting = Waiting(made, at(80))
    async with asyncio.timeout(20):
        while sum(link.in_flight for link in map(fleet.own, ("jp000001", "jp000002"))) < 2:
            await asyncio.sleep(0.01)
    waiting.dial.cancel()
    assert (waiting.told, [link.in_flight for link in fleet.links.values()], all_left(made)) == ([], [0, 0], True)
    assert descriptors() == before + 4  # what is left of the stocks

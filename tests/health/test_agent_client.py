"""The client against an agent written by hand: right answers, wrong ones, none, and other people's sockets."""

import asyncio
import contextlib
import ctypes
import json
import os
import queue
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from health.agent_client import AgentClient, AgentError, Hello
from tests.conftest import STALL_S

CLONE_NEWNET = 0x40000000  # sched.h
MakeAgent = Callable[..., Any]


@pytest.fixture
def foreign() -> Iterator[Callable[..., socket.socket]]:
    """Makes sockets that live in another network namespace."""
    wanted: queue.Queue[tuple[int, int] | None] = queue.Queue()
    made: queue.Queue[socket.socket | int] = queue.Queue()
    kept: list[socket.socket] = []

    def other_side() -> None:
        # unshare(2) moves the calling thread alone.
        libc = ctypes.CDLL(None, use_errno=True)
        made.put(0 if libc.unshare(CLONE_NEWNET) == 0 else ctypes.get_errno())
        while (want := wanted.get()) is not None:
            made.put(socket.socket(*want))

    thread = threading.Thread(target=other_side)
    thread.start()

    def make(family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        wanted.put((family, kind))
        kept.append(made.get(timeout=20))  # type: ignore[arg-type]
        return kept[-1]

    try:
        if made.get(timeout=20) != 0:
            missing = "a network namespace needs root (CAP_SYS_ADMIN)"
            pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
        yield make
    finally:
        wanted.put(None)
        thread.join()
        for sock in kept:
            sock.close()


@pytest.fixture(autouse=True)
def _no_descriptor_leaks() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def out_of_descriptors() -> Iterator[Callable[[int], None]]:
    """Leaves this process as many descriptors as it is told."""
    before, hoard = resource.getrlimit(resource.RLIMIT_NOFILE), list[int]()

    def leave(count: int) -> None:
        used = max(map(int, os.listdir("/proc/self/fd"))) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, before[1]))
        with contextlib.suppress(OSError):
            while True:
                hoard.append(os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + count, before[1]))

    yield leave
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for held in hoard:
        os.close(held)


def client_of(agent: Any, **callbacks: Any) -> AgentClient:
    return AgentClient(agent.path, uid=os.getuid(), **callbacks)


async def until(condition: Callable[[], bool]) -> None:
    """Poll `condition` for at most 20 s."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_hello_and_sample(make_agent: MakeAgent) -> None:
    agent = make_agent()
    agent.hello |= {"generation": 3, "families": ["inet", "inet6", "ipx"], "reason": "because", "colour": "blue"}
    client = client_of(agent)
    assert not client.connected
    assert await client.connect() == Hello("jp3f9a1c", "up", 3, ("inet", "inet6"), True, "because")
    assert client.connected
    assert await client.sample() == agent.sample
    client.close()
    client.close()
    assert not client.connected
    with pytest.raises(AgentError, match="gone"):
        await client.sample()


async def test_many_questions_at_once_find_their_answers(make_agent: MakeAgent) -> None:
    agent = make_agent()
    held: list[dict[str, Any]] = []
    agent.answers["resolve"] = lambda request: held.append(request) or []
    client = client_of(agent)
    await client.connect()
    names = [f"198.18.0.{n}" for n in range(20)]
    asked = [asyncio.create_task(client.resolve(name)) for name in names]
    await until(lambda: len(held) == 20)
    for request in reversed(held):
        agent.push({"id": request["id"], "addresses": [request["name"]], "ttl": 7})
    assert [(await task).addresses for task in asked] == [(name,) for name in names]
    client.close()


async def test_resolve(make_agent: MakeAgent) -> None:
    agent = make_agent()
    answer: dict[str, Any] = {}
    agent.answers["resolve"] = lambda _: [answer]
    client = client_of(agent)
    await client.connect()
    answer.update({"addresses": ["198.18.0.1", "198.18.0.2"], "ttl": 60})
    found = await client.resolve("a.example")
    assert (found.addresses, found.ttl, found.error) == (("198.18.0.1", "198.18.0.2"), 60.0, "")
    answer.update({"addresses": ["2001:2:0:0::1"]})
    assert (await client.resolve("a.example", "inet6")).addresses == ("2001:2::1",)
    answer.update({"addresses": [], "ttl": 0, "lookup": "not_found"})
    assert (await client.resolve("a.example")).error == "not_found"
    for ttl in (float("nan"), float("inf"), -1, None, "60"):
        answer.update({"ttl": ttl})
        assert (await client.resolve("a.example")).ttl == 0
    client.close()


@pytest.mark.parametrize(
    "addresses",
    [
        "198.18.0.1",
        None,
        7,
        {"a": 1},
        [7],
        [None],
        [["198.18.0.1"]],
        ["a.example"],
        ["2001:2::1"],
        ["fe80::1%lo"],
        [""],
    ],
)
async def test_addresses_that_are_none(make_agent: MakeAgent, addresses: Any) -> None:
    agent = make_agent()
    agent.answers["resolve"] = lambda _: [{"addresses": addresses, "ttl": 1}]
    client = client_of(agent)
    await client.connect()
    with pytest.raises(AgentError, match="nonsense"):
        await client.resolve("a.example")
    client.close()


async def test_nobody_there(make_agent: MakeAgent) -> None:
    agent = make_agent(start=False)
    with pytest.raises(AgentError, match="No such file"):
        await client_of(agent).connect()
    agent.start()
    agent.stop()
    with pytest.raises(AgentError, match="not reachable"):
        await client_of(agent).connect()


async def test_wrong_user(make_agent: MakeAgent) -> None:
    agent = make_agent()
    client = AgentClient(agent.path, uid=os.getuid() + 1)
    with pytest.raises(AgentError, match="runs as user"):
        await client.connect()
    assert not client.connected
    assert agent.asked == []


async def test_a_path_longer_than_a_socket_address(make_agent: MakeAgent, tmp_path: Any) -> None:
    agent = make_agent()
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    os.rename(agent.path, deep / "agent.sock")
    client = AgentClient(str(deep / "agent.sock"), uid=os.getuid())
    assert (await client.connect()).node == "jp3f9a1c"
    client.close()
    os.rename(deep / "agent.sock", agent.path)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x00",
        b"not json",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"v":2,"id":1}',
        b'{"id":1}',
        json.dumps({"v": 1, "pad": "x" * 70_000}).encode(),
    ],
)
async def test_rubbish_ends_the_connection(make_agent: MakeAgent, rubbish: bytes) -> None:
    agent = make_agent()
    closed: list[None] = []
    client = client_of(agent, on_close=lambda: closed.append(None))
    await client.connect()
    agent.answers["sample"] = lambda _: [rubbish]
    with pytest.raises(AgentError):
        await client.sample()
    assert not client.connected
    assert closed == [None]
    await until(lambda: agent.peers == [])


async def _connect_and_ask(client: AgentClient) -> None:
    await client.connect()
    await client.sample()


@pytest.mark.parametrize("where", ["hello", "sample"])
async def test_closes_instead_of_answering(make_agent: MakeAgent, where: str) -> None:
    agent = make_agent()
    closed: list[None] = []
    agent.answers[where] = lambda _: [None]
    client = client_of(agent, on_close=lambda: closed.append(None))
    with pytest.raises(AgentError, match="closed"):
        await _connect_and_ask(client)
    assert not client.connected
    assert len(closed) == (where == "sample")


async def test_closes_right_behind_hello(make_agent: MakeAgent) -> None:
    agent = make_agent()
    agent.answers["hello"] = lambda _: [agent.hello, None]
    closed: list[None] = []
    client = client_of(agent, on_close=lambda: closed.append(None))
    try:
        await client.connect()
    except AgentError:
        assert closed == []
    else:
        await until(lambda: closed == [None])
    assert not client.connected


@pytest.mark.parametrize(
    "field",
    [
        *({"generation": wrong} for wrong in ("3", -1, None, 1.5, True, 1 << 63)),
        *({"families": wrong} for wrong in (7, [["inet"]], "inet", None)),
    ],
)
async def test_nonsense_in_hello(make_agent: MakeAgent, field: dict[str, Any]) -> None:
    agent = make_agent()
    agent.hello |= field
    client = client_of(agent)
    with pytest.raises(AgentError, match="nonsense"):
        await client.connect()
    assert not client.connected
    await until(lambda: agent.peers == [])


async def test_no_answer_in_time(make_agent: MakeAgent) -> None:
    agent = make_agent()
    agent.answers["sample"] = lambda _: []
    client = client_of(agent)
    await client.connect()
    started = time.monotonic()
    with pytest.raises(AgentError, match=r"within 0\.1 s"):
        await client.sample(timeout=0.1)
    assert time.monotonic() - started < 1 + STALL_S
    assert client.connected
    agent.answers["hello"] = lambda _: []
    silent = client_of(agent)
    with pytest.raises(AgentError, match="within"):
        await silent.connect(timeout=0.1)
    assert not silent.connected
    client.close()


async def test_late_and_unasked_answers_are_dropped(make_agent: MakeAgent, foreign: Any) -> None:
    agent = make_agent()
    held: list[dict[str, Any]] = []
    agent.answers["sockets"] = lambda request: held.append(request) or []
    client = client_of(agent)
    await client.connect()
    with pytest.raises(AgentError, match="within"):
        await client.sockets(1, timeout=0.05)
    await until(lambda: bool(held))
    for number in (held[0]["id"], 999, "1", None, True, [1]):
        agent.push({"id": number, "generation": 1}, [foreign().fileno()])
    assert await client.sample() == agent.sample
    client.close()


async def test_an_error_is_told(make_agent: MakeAgent, foreign: Any) -> None:
    agent = make_agent()
    agent.answers["sockets"] = lambda _: [({"error": "the tunnel is down" + "!" * 500}, [foreign().fileno()])]
    client = client_of(agent)
    await client.connect()
    with pytest.raises(AgentError, match="the tunnel is down") as caught:
        await client.sockets(1)
    assert len(str(caught.value)) == 200
    client.close()


async def test_agent_that_does_not_read(make_agent: MakeAgent) -> None:
    agent = make_agent()
    client = client_of(agent)
    await client.connect()
    asyncio.get_running_loop().remove_reader(agent.peers[0])
    asked = [asyncio.create_task(client.sample(timeout=0.2)) for _ in range(2000)]
    failed = await asyncio.gather(*asked, return_exceptions=True)
    assert {str(error) for error in failed} == {"agent does not read", "agent did not answer within 0.2 s"}
    client.close()


async def test_pushed_changes(make_agent: MakeAgent) -> None:
    agent = make_agent()
    seen: list[tuple[str, int]] = []
    client = client_of(agent, on_state=lambda tunnel, generation: seen.append((tunnel, generation)))
    await client.connect()
    agent.push({"op": "down", "generation": 1})
    agent.push({"op": "sideways", "generation": 1})
    agent.push({"op": "up", "generation": 2})
    await until(lambda: len(seen) == 2)
    assert seen == [("down", 1), ("up", 2)]
    client.close()


async def test_a_change_right_behind_hello_is_not_lost(make_agent: MakeAgent) -> None:
    agent = make_agent()
    agent.answers["hello"] = lambda _: [agent.hello, {"op": "down", "generation": 1, "id": None}]
    seen: list[tuple[str, int]] = []
    client = client_of(agent, on_state=lambda tunnel, generation: seen.append((tunnel, generation)))
    hello = await client.connect()
    await client.sample()
    assert (hello.tunnel, seen) in [("down", []), ("up", [("down", 1)])]
    agent.answers["hello"] = lambda _: [{"op": "down", "generation": 1, "id": None}, agent.hello]
    other = client_of(agent)
    assert (await other.connect()).tunnel == "up"
    client.close()
    other.close()


async def test_nonsense_pushed_ends_the_connection(make_agent: MakeAgent) -> None:
    agent = make_agent()
    closed: list[None] = []
    client = client_of(agent, on_close=lambda: closed.append(None))
    await client.connect()
    agent.push({"op": "up", "generation": "two"})
    await until(lambda: closed == [None])


async def test_on_close_once_and_never_after_close(make_agent: MakeAgent) -> None:
    agent = make_agent()
    closed: list[str] = []
    one = client_of(agent, on_close=lambda: closed.append("one"))
    other = client_of(agent, on_close=lambda: closed.append("other"))
    await one.connect()
    await other.connect()
    other.close()
    agent.stop()
    await until(lambda: not one.connected)
    one.close()
    assert closed == ["one"]


async def test_sockets_of_another_namespace_are_handed_over(make_agent: MakeAgent, foreign: Any) -> None:
    agent = make_agent()
    agent.answers["sockets"] = lambda request: [
        ({"generation": 4}, [foreign(socket.AF_INET6, socket.SOCK_DGRAM).fileno() for _ in range(request["n"])])
    ]
    client = client_of(agent)
    await client.connect()
    generation, sockets = await client.sockets(200, family="inet6", kind="dgram")
    assert (generation, len(sockets)) == (4, 200)
    assert len({sock.fileno() for sock in sockets}) == 200
    for sock in sockets:
        assert (sock.family, sock.type, sock.gettimeout()) == (socket.AF_INET6, socket.SOCK_DGRAM, 0)
        assert not os.get_inheritable(sock.fileno())
        sock.close()
    client.close()


async def test_a_socket_of_our_own_namespace_is_refused(make_agent: MakeAgent, foreign: Any) -> None:
    agent = make_agent()
    with socket.socket() as own:
        agent.answers["sockets"] = lambda _: [({"generation": 1}, [foreign().fileno(), own.fileno()])]
        client = client_of(agent)
        await client.connect()
        with pytest.raises(AgentError, match="own network namespace"):
            await client.sockets(2)
        client.close()


@pytest.mark.parametrize("given", ["none", "more", "a pipe", "another kind", "another family", "unix", "generation"])
async def test_wrong_sockets_are_refused(make_agent: MakeAgent, foreign: Any, given: str) -> None:
    agent = make_agent()
    ends = os.pipe()
    fds = {
        "none": [],
        "more": [foreign().fileno(), foreign().fileno(), foreign().fileno()],
        "a pipe": [foreign().fileno(), ends[0]],
        "another kind": [foreign(kind=socket.SOCK_DGRAM).fileno()],
        "another family": [foreign(socket.AF_INET6).fileno()],
        "unix": [foreign(socket.AF_UNIX).fileno()],
        "generation": [foreign().fileno()],
    }[given]
    answer = {"generation": "1" if given == "generation" else 1}
    agent.answers["sockets"] = lambda _: [(answer, fds)]
    client = client_of(agent)
    await client.connect()
    with pytest.raises(AgentError):
        await client.sockets(2)
    for end in ends:
        os.close(end)
    client.close()


async def test_descriptors_beside_other_answers_are_closed(make_agent: MakeAgent, foreign: Any) -> None:
    agent = make_agent()
    agent.answers["sample"] = lambda _: [({"sample": {}}, [foreign().fileno()])]
    client = client_of(agent)
    await client.connect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await client.sample()
    assert len(os.listdir("/proc/self/fd")) == before + 5  # the five that `foreign` made
    client.close()


async def test_an_answer_with_truncated_control_data_counts_for_nothing_and_the_node_stays(
    make_agent: MakeAgent, foreign: Any, out_of_descriptors: Callable[[int], None]
) -> None:
    agent = make_agent()
    handed = [foreign().fileno() for _ in range(8)]
    agent.answers["sockets"] = lambda _: [({"generation": 1}, handed)]
    client = client_of(agent)
    await client.connect()
    out_of_descriptors(2)
    with pytest.raises(AgentError, match="truncated"):
        await client.sockets(8)
    assert client.connected
    assert (await client.hello()).tunnel == "up"


async def test_an_answer_in_the_turn_of_the_time_out_leaks_nothing(make_agent: MakeAgent, foreign: Any) -> None:
    agent = make_agent()
    sock = foreign()
    held: list[dict[str, Any]] = []
    agent.answers["sockets"] = lambda request: held.append(request) or []
    client = client_of(agent)
    await client.connect()
    loop = asyncio.get_running_loop()
    for _ in range(10):
        before = len(os.listdir("/proc/self/fd"))
        asked = asyncio.create_task(client.sockets(1, timeout=0.02))
        await until(lambda: bool(held))
        agent.push({"id": held.pop()["id"], "generation": 1}, [sock.fileno()])
        # Both are due when the loop looks next: reading comes first, the deadline second, the task last.
        due = loop.time() + 0.05
        while loop.time() < due:
            pass
        with pytest.raises(AgentError, match="within"):
            await asked
        assert len(os.listdir("/proc/self/fd")) == before
    client.close()


async def test_a_question_cancelled_with_its_answer_leaks_nothing(make_agent: MakeAgent, foreign: Any) -> None:
    agent = make_agent()
    sock = foreign()
    held: list[dict[str, Any]] = []
    agent.answers["sockets"] = lambda request: held.append(request) or []
    client = client_of(agent)
    await client.connect()
    before = len(os.listdir("/proc/self/fd"))
    asked = asyncio.create_task(client.sockets(1))
    await until(lambda: bool(held))
    agent.push({"id": held.pop()["id"], "generation": 1}, [sock.fileno()])
    client._readable()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert len(os.listdir("/proc/self/fd")) == before
    client.close()

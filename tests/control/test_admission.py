"""The admission gate against a stand-in for the insights service and an agent that hands over ordinary sockets."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from control.admission import Gate, OwnAddress, UnprovedError, ask, parse_insights
from control.model import Outcome, Verdict
from health.agent_client import Addresses, AgentError, Hello
from health.model import Node, NodeKind, NodeStatus

NODE = Node(id="jp000001", country="jp", kind=NodeKind.VPN, machine="m", status=NodeStatus.VERIFYING)


class Insights:
    """Says what it is told to say, and who asked."""

    def __init__(self) -> None:
        self.answer: Any = {"ip": "203.0.113.7", "country_code": "JP"}
        self.status = 200
        self.callers: list[tuple[str, str]] = []
        self.silent = asyncio.Event()
        self.silent.set()
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.callers.append((request.transport.get_extra_info("peername")[0], request.headers["Host"]))
        await self.silent.wait()
        if isinstance(self.answer, bytes):
            return web.Response(body=self.answer, status=self.status)
        return web.json_response(self.answer, status=self.status)


class Agent:
    """An agent whose sockets are bound to 127.0.0.9, so that who uses them is seen."""

    def __init__(self) -> None:
        self.hellos = [Hello("jp000001", "up", 3, ("inet",), True, "")]
        self.found = Addresses(("127.0.0.1",), 60.0)
        self.made: list[socket.socket] = []
        self.generation = 3
        self.asked: list[str] = []
        self.broken = False

    async def hello(self) -> Hello:
        if self.broken:
            raise AgentError("agent is gone")
        return self.hellos.pop(0) if len(self.hellos) > 1 else self.hellos[0]

    async def resolve(self, name: str, family: str = "inet", timeout: float = 5.0) -> Addresses:
        self.asked.append(name)
        return self.found

    async def sockets(self, count: int) -> tuple[int, list[socket.socket]]:
        sock = socket.socket()
        sock.bind(("127.0.0.9", 0))
        sock.setblocking(False)
        self.made.append(sock)
        return self.generation, [sock]


@pytest.fixture
async def insights(aiohttp_server: Any) -> AsyncIterator[Insights]:
    found = Insights()
    app = web.Application()
    app.router.add_get("/where", found.handle)
    server = await aiohttp_server(app)
    found.port = server.port
    yield found
    found.silent.set()


def url(insights: Insights, host: str = "insights.example") -> str:
    return f"http://{host}:{insights.port}/where"


async def verify(insights: Insights, agent: Agent, own: tuple[str, ...] = ("198.51.100.1",), **more: Any) -> Verdict:
    address = url(insights, more.pop("host", "insights.example"))
    verdict = await Gate(address, "probe.example", OwnAddress(address, own), **more).verify(NODE, agent)
    assert all(sock.fileno() == -1 for sock in agent.made), "a socket of the node was left open"
    return verdict


async def test_an_exit_that_is_what_it_claims_to_be_passes(insights: Insights) -> None:
    agent = Agent()
    assert await verify(insights, agent) == Verdict(Outcome.PASSED, 3, "", "203.0.113.7", "jp")
    assert insights.callers == [("127.0.0.9", f"insights.example:{insights.port}")]
    assert agent.asked == ["insights.example"]


async def test_with_a_numeric_service_the_probe_name_is_looked_up(insights: Insights) -> None:
    agent = Agent()
    verdict = await verify(insights, agent, host="127.0.0.1")
    assert verdict.outcome is Outcome.PASSED
    assert agent.asked == ["probe.example"]
    assert insights.callers[0][0] == "127.0.0.9"


async def test_its_connections_end_with_a_reset(insights: Insights, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, seen = Agent(), []
    close = socket.socket.close

    def spy(sock: socket.socket) -> None:
        if sock.fileno() != -1 and sock.getsockname()[:1] == ("127.0.0.9",):
            seen.append(struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
        close(sock)

    monkeypatch.setattr(socket.socket, "close", spy)
    await verify(insights, agent)
    assert seen == [(1, 0)]


async def test_this_machines_own_address_is_a_leak(insights: Insights) -> None:
    verdict = await verify(insights, Agent(), own=("198.51.100.1", "203.0.113.7"))
    assert (verdict.outcome, verdict.leak) == (Outcome.REFUTED, True)
    assert "own address" in verdict.reason


async def test_the_own_address_is_asked_directly_and_kept(insights: Insights) -> None:
    address, now = url(insights, "127.0.0.1"), [0.0]
    own = OwnAddress(address, clock=lambda: now[0])
    assert await own.get() == {"203.0.113.7"}
    await own.get()
    assert [caller for caller, _ in insights.callers] == ["127.0.0.1"]
    now[0] = 300.0
    await own.get()
    assert len(insights.callers) == 2
    verdict = await Gate(address, "probe.example", own).verify(NODE, Agent())
    assert (verdict.outcome, verdict.leak) == (Outcome.REFUTED, True)


async def test_an_own_address_that_cannot_be_found_out_admits_nobody(insights: Insights) -> None:
    insights.status = 500
    verdict = await verify(insights, Agent(), own=(), host="127.0.0.1")
    assert verdict.outcome is Outcome.UNPROVED
    assert "own address is unknown" in verdict.reason


async def test_another_country_is_refuted_with_what_was_seen(insights: Insights) -> None:
    insights.answer = {"ip": "203.0.113.8", "country_code": "US"}
    verdict = await verify(insights, Agent())
    assert (verdict.outcome, verdict.leak, verdict.exit_ip, verdict.exit_country) == (
        *(Outcome.REFUTED, False),
        *("203.0.113.8", "us"),
    )
    assert verdict.reason == "its exit 203.0.113.8 is in us, not in jp"


async def test_no_kill_switch_is_a_leak(insights: Insights) -> None:
    agent = Agent()
    agent.hellos = [Hello("jp000001", "up", 3, ("inet",), False, "")]
    verdict = await verify(insights, agent)
    assert (verdict.outcome, verdict.leak) == (Outcome.REFUTED, True)
    assert insights.callers == []


async def test_another_nodes_agent_is_refused(insights: Insights) -> None:
    agent = Agent()
    agent.hellos = [Hello("jp00000f", "up", 3, ("inet",), True, "")]
    assert (await verify(insights, agent)).outcome is Outcome.REFUTED


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda a: a.hellos.__setitem__(0, Hello("jp000001", "down", 3, (), True, "")), "its tunnel is down"),
        (lambda a: setattr(a, "found", Addresses((), 0, "timeout")), "not resolved through its tunnel: timeout"),
        (lambda a: setattr(a, "generation", 4), "changed meanwhile"),
        (lambda a: a.hellos.append(Hello("jp000001", "up", 4, (), True, "")), "changed meanwhile"),
        (lambda a: a.hellos.append(Hello("jp000001", "down", 3, (), True, "")), "changed meanwhile"),
        (lambda a: setattr(a, "broken", True), "agent is gone"),
        (lambda a: setattr(a, "found", Addresses(("127.0.0.254",), 60.0)), "is not reached"),
    ],
)
async def test_what_cannot_be_found_out_is_no_proof(insights: Insights, break_it: Any, words: str) -> None:
    agent = Agent()
    break_it(agent)
    if words == "is not reached":
        insights.port = _closed_port()
    verdict = await verify(insights, agent)
    assert verdict.outcome is Outcome.UNPROVED
    assert words in verdict.reason


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "answer",
    [
        *({}, [], "text", {"ip": "203.0.113.7"}, {"ip": "x", "country_code": "JP"}),
        *({"ip": "203.0.113.7", "country_code": "XX"}, {"ip": "203.0.113.7", "country_code": None}),
        *(b"", b"\xff", b"[" * 100_000, b"x" * 200_000),
    ],
)
async def test_answers_that_say_nothing_prove_nothing(insights: Insights, answer: Any) -> None:
    insights.answer = answer
    assert (await verify(insights, Agent())).outcome is Outcome.UNPROVED


async def test_redirects_are_not_followed(insights: Insights) -> None:
    insights.status = 302
    assert "answered 302" in (await verify(insights, Agent())).reason


async def test_it_ends_in_time(insights: Insights) -> None:
    insights.silent.clear()
    began = time.monotonic()
    verdict = await verify(insights, Agent(), within=1)
    assert time.monotonic() - began < 1 * 4
    assert (verdict.outcome, verdict.generation, verdict.reason) == (Outcome.UNPROVED, 3, "not verified within 1 s")


def test_insights_of_the_true_form() -> None:
    body = b'{"ip":"203.0.113.7","country":"Japan","country_code":"JP","city":"Tokyo","isp":"x","protected":true}'
    seen = parse_insights(body)
    assert (seen.ip, seen.country) == ("203.0.113.7", "jp")
    with pytest.raises(UnprovedError):
        parse_insights(b"null")


async def test_asking_closes_its_connector(insights: Insights) -> None:
    import aiohttp

    connector = aiohttp.TCPConnector()
    await ask(url(insights, "127.0.0.1"), connector)
    assert connector.closed

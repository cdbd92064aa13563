"""A real agent, in a network namespace of its own, asked through the client that the gateway uses."""

import asyncio
import json
import os
import socket
import time

import pytest

from health.agent import protocol
from health.agent_client import AgentError
from health.handover import own_netns_cookie
from health.model import Sample
from tests.conftest import STALL_S
from tests.health.agent.harness import AgentProcess, until


async def test_it_comes_up_with_the_first_answer_through_the_tunnel(agent: AgentProcess) -> None:
    agent.report(link=False, reason="OpenVPN AUTH")
    client = await agent.client()
    hello = await client.hello()
    assert (hello.node, hello.tunnel, hello.generation) == ("jp3f9a1c", "starting", 0)
    assert (hello.families, hello.kill_switch, hello.reason) == (("inet",), True, "OpenVPN AUTH")
    began = time.monotonic()
    agent.report()
    await until(lambda: _is(client, "up"))
    assert time.monotonic() - began < 1.5 + STALL_S
    assert [(state, generation) for _, state, generation in agent.pushed] == [("up", 1)]
    assert (await client.hello()).reason == ""


async def test_nothing_is_handed_out_before_the_tunnel_is_up(agent: AgentProcess) -> None:
    agent.report(link=False)
    client = await agent.client()
    with pytest.raises(AgentError, match="the tunnel is starting"):
        await client.sockets(1)
    with pytest.raises(AgentError, match="the tunnel is starting"):
        await client.resolve("one.test")


@pytest.mark.parametrize("family", ["inet", "inet6"])
@pytest.mark.parametrize("kind", ["stream", "dgram"])
async def test_sockets_are_of_its_namespace(agent: AgentProcess, family: str, kind: str) -> None:
    agent.report()
    client = await agent.up()
    generation, made = await client.sockets(protocol.MAX_SOCKETS, family=family, kind=kind)
    try:
        assert generation == 1
        assert len(made) == protocol.MAX_SOCKETS
        assert all(
            socket.AddressFamily(sock.family).name == {"inet": "AF_INET", "inet6": "AF_INET6"}[family] for sock in made
        )
        cookies = {sock.getsockopt(socket.SOL_SOCKET, 71, 8) for sock in made}
        assert len(cookies) == 1
        assert own_netns_cookie() not in cookies
    finally:
        for sock in made:
            sock.close()


async def test_it_keeps_no_copy_of_what_it_handed_over(agent: AgentProcess) -> None:
    agent.report()
    client = await agent.up()
    await client.resolve("one.test")
    before = _descriptors(agent.process.pid)
    for _ in range(20):
        _, made = await client.sockets(100)
        for sock in made:
            sock.close()
    # The sockets arrive before the agent has closed its own copies; its next answer comes afterwards.
    await client.hello()
    # Its look-ups may have a few sockets of their own open. One copy kept of each batch would be twenty.
    assert _descriptors(agent.process.pid) < before + 10


@pytest.mark.parametrize(
    "request_",
    [
        {"family": "inet", "type": "stream", "n": 0},
        {"family": "inet", "type": "stream", "n": 201},
        {"family": "inet", "type": "stream", "n": True},
        {"family": "inet", "type": "stream", "n": "1"},
        {"family": "unix", "type": "stream", "n": 1},
        {"family": ["inet"], "type": "stream", "n": 1},
        {"family": "inet", "type": "raw", "n": 1},
        {},
    ],
)
async def test_a_senseless_request_for_sockets_is_refused(agent: AgentProcess, request_: dict[str, object]) -> None:
    agent.report()
    await agent.up()
    assert "error" in _talk(agent, {"v": 1, "id": 7, "op": "sockets", **request_})


@pytest.mark.parametrize(
    "request_", [{"op": "resolve"}, {"op": "resolve", "name": 1, "family": "inet"}, {"op": "x"}, {}]
)
async def test_a_senseless_request_is_answered_with_an_error(agent: AgentProcess, request_: dict[str, object]) -> None:
    agent.report()
    await agent.up()
    answer = _talk(agent, {"v": 1, "id": 7, **request_})
    assert answer["id"] == 7
    assert "error" in answer


async def test_names_are_looked_up_through_the_tunnels_server(agent: AgentProcess) -> None:
    agent.report()
    client = await agent.up()
    found = await client.resolve("ONE.test.")
    assert set(found.addresses) == {"192.0.2.1", "192.0.2.2"}
    assert 0 < found.ttl <= 20
    assert (await client.resolve("six.test", "inet6")).addresses == ("2001:db8::1",)
    missing = await client.resolve("missing.test")
    assert (missing.addresses, missing.error) == ((), protocol.NOT_FOUND)


async def test_a_slow_look_up_ends_by_itself_and_holds_nobody_up(agent: AgentProcess) -> None:
    agent.report()
    client = await agent.up()
    slow = asyncio.ensure_future(client.resolve("slow.test", timeout=6))
    assert (await client.resolve("one.test", timeout=3)).addresses
    assert (await slow).error == protocol.LOOKUP_TIMEOUT


async def test_a_black_holed_tunnel_is_down_within_five_seconds_and_comes_back(agent: AgentProcess) -> None:
    agent.report()
    client = await agent.up()
    agent.mute(True)
    began = time.monotonic()
    await until(lambda: _pushed(agent, "down", 1))
    assert time.monotonic() - began <= 5 + STALL_S
    hello = await client.hello()
    assert (hello.tunnel, hello.reason) == ("down", "no answer through the tunnel")
    with pytest.raises(AgentError, match="the tunnel is down"):
        await client.sockets(1)
    agent.mute(False)
    await until(lambda: _pushed(agent, "up", 2))
    generation, made = await client.sockets(1)
    assert generation == 2
    made[0].close()


async def test_a_link_that_the_vpn_program_gave_up_is_down_at_once(agent: AgentProcess) -> None:
    agent.report()
    client = await agent.up()
    began = time.monotonic()
    agent.report(link=False, reason="OpenVPN RECONNECTING (ping-restart)")
    await until(lambda: _pushed(agent, "down", 1))
    assert time.monotonic() - began < 1 + STALL_S
    assert (await client.hello()).reason == "OpenVPN RECONNECTING (ping-restart)"


async def test_a_sample_is_one_the_model_takes(agent: AgentProcess) -> None:
    agent.report(handshake_age_s=3.5)
    client = await agent.up()
    raw = await client.sample()
    sample = Sample(node="jp3f9a1c", at=0.0, reachable=True, **raw)
    assert (sample.tunnel, sample.generation, sample.kill_switch, sample.handshake_age_s) == ("up", 1, True, 3.5)
    assert sample.probe_ms is not None
    assert sample.loss == 0
    agent.report(kill_switch=False)
    await until(lambda: _kill_switch_is(client, False))


async def test_without_a_name_server_it_says_so(agent: AgentProcess) -> None:
    agent.report(dns=())
    client = await agent.client()
    hello = await client.hello()
    assert (hello.tunnel, hello.reason) == ("starting", "the tunnel has no name server")


async def test_it_ends_when_the_reports_end(agent: AgentProcess) -> None:
    agent.report()
    await agent.up()
    assert agent.process.stdin is not None
    agent.process.stdin.close()
    await until(lambda: _ended(agent))
    assert agent.process.returncode == 0
    await until(lambda: _closed(agent))


async def test_its_socket_is_for_owner_and_group(agent: AgentProcess) -> None:
    agent.report()
    await agent.client()
    assert os.stat(agent.path).st_mode & 0o777 == 0o660


def _talk(agent: AgentProcess, message: dict[str, object]) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(20)
        sock.connect(agent.path)
        sock.send(json.dumps(message).encode())
        return dict(protocol.decode(sock.recv(65536)))


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def _is(client, tunnel: str) -> bool:  # type: ignore[no-untyped-def]
    return (await client.hello()).tunnel == tunnel


async def _kill_switch_is(client, value: bool) -> bool:  # type: ignore[no-untyped-def]
    return (await client.hello()).kill_switch is value and (await client.sample())["kill_switch"] is value


async def _pushed(agent: AgentProcess, state: str, generation: int) -> bool:
    return any(found[1:] == (state, generation) for found in agent.pushed)


async def _ended(agent: AgentProcess) -> bool:
    return agent.process.poll() is not None


async def _closed(agent: AgentProcess) -> bool:
    return bool(agent.closed)

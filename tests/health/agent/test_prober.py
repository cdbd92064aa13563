"""Rounds of probes by a real agent, in a network namespace of its own; the targets there answer, or do not."""

import asyncio
import time

import pytest

from health.agent_client import AgentClient
from health.model import Sample
from tests.conftest import STALL_S
from tests.health.agent.harness import AgentProcess, until
from tests.health.agent.run_agent import INSIGHTS, TARGETS

HOSTS = [target.partition(":")[0] for target in TARGETS]


async def sample(client: AgentClient) -> Sample:
    return Sample(node="jp3f9a1c", at=0.0, reachable=True, **(await client.sample()))


async def reached_all(agent: AgentProcess) -> AgentClient:
    """A client of an agent that has reached every target once."""
    agent.report(targets=TARGETS)
    client = await agent.up()

    async def reached() -> bool:
        return None not in ((await sample(client)).targets or {"": None}).values()

    await until(reached)
    return client


async def test_all_that_a_sample_tells(agent: AgentProcess) -> None:
    url = "http://{}:{}/v1/helpers/ips/insights".format(*INSIGHTS)
    agent.report(targets=TARGETS, insights_url=url)
    client = await agent.up()

    async def complete() -> bool:
        agent.report(targets=TARGETS, insights_url=url)
        told = await sample(client)
        known = (told.connect_ms, told.jitter_ms, told.dns_ms, told.cpu_percent, told.memory_bytes, told.probe_ms)
        return None not in known and bool(told.exit_ip)

    await until(complete)
    told = await sample(client)
    assert set(told.targets) == set(TARGETS)
    assert (told.loss, told.dns_ok) == (0, True)
    assert (told.exit_ip, told.exit_country) == ("198.18.0.99", "jp")
    assert told.connect_ms is not None
    assert told.connect_ms < 500


async def test_a_dead_target_is_not_a_dead_tunnel(agent: AgentProcess) -> None:
    client = await reached_all(agent)
    agent.silence(HOSTS[0])

    async def dead() -> bool:
        return (await sample(client)).targets[TARGETS[0]] is None

    await until(dead)
    ends = time.monotonic() + 9  # more than the three rounds that would take a tunnel down
    while time.monotonic() < ends:
        told = await sample(client)
        assert (told.tunnel, told.loss, told.dns_ok) == ("up", 0, True)
        await asyncio.sleep(0.2)
    assert told.connect_ms is not None
    assert told.connect_ms < 500, "the others say how long it takes"
    assert (await client.hello()).generation == 1, "it was never down"


async def test_nothing_leaves_though_names_are_answered(agent: AgentProcess) -> None:
    client = await reached_all(agent)
    agent.silence(*HOSTS)
    began = time.monotonic()
    await until(lambda: pushed(agent, "down", 1))
    assert time.monotonic() - began <= 5 + STALL_S
    hello = await client.hello()
    assert (hello.tunnel, hello.reason) == ("down", "names are answered, but no target is reached")
    agent.silence()
    await until(lambda: pushed(agent, "up", 2))
    assert (await sample(client)).loss == 0


async def test_targets_that_nobody_lets_through(agent: AgentProcess) -> None:
    agent.report()
    await agent.client()
    agent.silence(*HOSTS)
    agent.report(targets=TARGETS)
    client = await agent.up()
    ends = time.monotonic() + 9
    while time.monotonic() < ends:
        told = await sample(client)
        assert (told.tunnel, told.loss, told.connect_ms) == ("up", 0, None)
        await asyncio.sleep(0.2)
    assert told.targets == dict.fromkeys(TARGETS)


@pytest.mark.parametrize("link", [True, False])
async def test_a_burst_of_reports_makes_no_burst_of_probes(agent: AgentProcess, link: bool) -> None:
    client = await reached_all(agent)
    before = await sample(client)
    for _ in range(200):
        agent.report(targets=TARGETS, link=link)
    await asyncio.sleep(1)
    after = await sample(client)
    assert (after.tunnel, after.generation) == ("up" if link else "down", before.generation)


async def pushed(agent: AgentProcess, state: str, generation: int) -> bool:
    return any(found[1:] == (state, generation) for found in agent.pushed)

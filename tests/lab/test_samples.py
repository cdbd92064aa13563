"""What is measured of the lab's exits, and how soon it is seen that one is dead, black-holed, slow or of no use."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.admission import Gate, OwnAddress
from control.model import Outcome
from deploy import ports
from deploy.lab import supervisor, world
from deploy.lab.state import Place
from health.agent_client import AgentClient
from health.config import RedisSettings
from health.model import Node, Sample, Tunnel
from health.registry import Registry
from tests.lab.harness import Lab, impaired, traffic, wait_for

TABLE = "vxtest"
PORTS = {"jp": 51820, "us": 1194}
DROPS = {"jp": "udp dport 51820 drop", "us": "udp dport 1194 drop", "gb": "tcp dport 443 drop"}
TAKES_NOTHING = "type filter hook prerouting priority -300;"
NOTHING_LEAVES = "type filter hook forward priority -10; policy drop;"


@pytest.fixture
async def registry(lab: Lab):  # type: ignore[no-untyped-def]
    opened = Registry.open(RedisSettings(url=f"unix://{Place(Path(lab.status['state_dir'])).redis_socket}", timeout=2))
    yield opened
    await opened.close()


async def sampled(registry: Registry, node: str) -> Sample | None:
    return (await registry.samples([node])).get(node)


async def until(registry: Registry, node: str, condition: Callable[[Sample], object], seconds: float) -> float:
    """Wait for such a sample of `node`; seconds it took."""
    began = time.monotonic()
    while (sample := await sampled(registry, node)) is None or not condition(sample):
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {sample}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def settled(registry: Registry, node: str) -> None:
    """Wait until every target has been reached and the exit's address is known."""
    await until(registry, node, lambda s: s.exit_ip and s.targets and None not in s.targets.values(), 20)


def server_of(lab: Lab, node: str) -> str:
    return str(lab.api("GET", f"/api/nodes/{node}")["vpn_server"]).partition(".")[0]


@contextmanager
def dropping(lab: Lab, server: str, chain: str, rule: str = "") -> Iterator[None]:
    """A chain of nft, with a rule, in a VPN server's namespace for as long as the block lasts."""
    inside = ("nsenter", lab.namespace(f"vxlab-{server}"), "nft")
    commands = [f"add table ip {TABLE}", f"add chain ip {TABLE} drops {{ {chain} }}"]
    commands += [f"add rule ip {TABLE} drops {rule}"] if rule else []
    for command in commands:
        run = lab.run(*inside, command)
        assert run.returncode == 0, run.stderr
    try:
        yield
    finally:
        lab.run(*inside, f"delete table ip {TABLE}")


def chosen(lab: Lab, country: str, node: str) -> bool:
    """Whether a gateway would still use this very node."""
    run = lab.curl(lab.proxy(country, extra=f"-node-{node}"), "http://vpnexit.internal/", "-f", timeout=3)
    return run.returncode == 0


async def out_of_the_choice(lab: Lab, country: str, node: str, seconds: float) -> float:
    return await asyncio.to_thread(wait_for, lambda: not chosen(lab, country, node), seconds, f"{node} is out")


@pytest.mark.parametrize("country", ["jp", "us", "gb"])
async def test_all_that_is_measured(lab: Lab, registry: Registry, country: str) -> None:
    node = lab.nodes(country)[0]
    await settled(registry, node)
    await until(registry, node, lambda s: s.cpu_percent is not None and s.jitter_ms is not None, 10)
    sample = await sampled(registry, node)
    assert sample is not None
    assert (sample.tunnel, sample.kill_switch, sample.loss, sample.dns_ok) == (Tunnel.UP, True, 0, True)
    assert set(sample.targets) == set(world.PROBE_TARGETS)
    assert None not in (sample.connect_ms, sample.jitter_ms, sample.dns_ms, sample.probe_ms)
    assert sample.exit_ip in lab.status["countries"][country]["egress"]
    assert sample.exit_country == country
    assert (sample.handshake_age_s is not None) is (country == "jp")
    assert sample.memory_bytes is not None
    assert 1 << 22 < sample.memory_bytes < 1 << 28
    began = time.monotonic()
    await asyncio.sleep(10)
    later = await sampled(registry, node)
    assert later is not None
    moved = later.rx_bytes - sample.rx_bytes + later.tx_bytes - sample.tx_bytes
    rate = moved / (time.monotonic() - began)
    # One per cent of a line of 1 Mbit/s is 1250 bytes a second; admission asks once a minute as well.
    assert 100 < rate < 1250
    print(f"{country}: probing moves {rate:.0f} bytes/s; {later.cpu_percent} % CPU, {later.memory_bytes} bytes")


async def test_a_killed_agent(lab: Lab, registry: Registry) -> None:
    node = lab.nodes("jp")[0]
    await settled(registry, node)
    agent = agent_of(lab, node)
    os.kill(agent, signal.SIGKILL)
    killed = time.monotonic()
    took = await until(registry, node, lambda s: not s.reachable, 0.5 * 2)
    out = await out_of_the_choice(lab, "jp", node, 1 * 2)
    whole = time.monotonic() - killed
    # Gone before the next test asks which nodes there are.
    await asyncio.to_thread(wait_for, lambda: node not in lab.nodes("jp"), 30, f"{node} is given up")
    print(f"killed agent: sample after {took:.2f} s, out of the choice {out:.2f} s later, {whole:.2f} s in all")


def agent_of(lab: Lab, node: str) -> int:
    """The host's process id of a node's agent."""
    listed = lab.docker("top", f"vpnexit-{node}", "-eo", "pid,args").splitlines()
    return next(int(line.split()[0]) for line in listed if "health.agent.agent" in line)


@pytest.mark.parametrize("country", ["jp", "us", "gb"])
async def test_a_black_hole(lab: Lab, registry: Registry, country: str) -> None:
    """The server takes nothing any more; the agent answers, and the last handshake is fresh."""
    node = lab.nodes(country)[0]
    await settled(registry, node)
    with dropping(lab, server_of(lab, node), TAKES_NOTHING, DROPS[country]):
        sample, out = await asyncio.gather(
            until(registry, node, lambda s: s.tunnel is Tunnel.DOWN, 5 * 2),
            out_of_the_choice(lab, country, node, 5 * 2),
        )
        seen = await sampled(registry, node)
        assert seen is not None
        assert seen.reachable
        assert seen.handshake_age_s is None or seen.handshake_age_s < 180
    print(f"{country}: black hole in the sample after {sample:.2f} s, out of the choice after {out:.2f} s")


async def test_nobody_waits_until_a_black_hole_is_noticed(lab: Lab, registry: Registry) -> None:
    """One of two servers vanishes: new connections are served by the other at once."""
    nodes = lab.nodes("jp")
    assert len({server_of(lab, node) for node in nodes}) == 2
    for node in nodes:
        await settled(registry, node)
    with dropping(lab, server_of(lab, nodes[0]), TAKES_NOTHING, DROPS["jp"]):
        async with traffic(lab, "jp") as seen:
            await asyncio.sleep(3)
    assert seen.bad() == []
    took = sorted(ended - started for started, ended, *_ in seen.answers)
    assert took[-1] < 1 * 2, took
    print(f"black hole: {len(took)} answers, the slowest after {took[-1]:.2f} s, median {took[len(took) // 2]:.3f} s")


@pytest.mark.parametrize("country", ["jp", "us"])
async def test_a_server_that_answers_while_nothing_leaves_it(lab: Lab, registry: Registry, country: str) -> None:
    node = lab.nodes(country)[0]
    await settled(registry, node)
    with dropping(lab, server_of(lab, node), NOTHING_LEAVES):
        took, out = await asyncio.gather(
            until(registry, node, lambda s: s.tunnel is Tunnel.DOWN, 5 * 2),
            out_of_the_choice(lab, country, node, 5 * 2),
        )
        seen = await sampled(registry, node)
        assert seen is not None
        assert seen.reachable
        assert seen.dns_ok
    print(f"{country}: nothing leaves; in the sample after {took:.2f} s, out of the choice after {out:.2f} s")


async def test_a_dead_website_is_not_a_dead_tunnel(lab: Lab, registry: Registry) -> None:
    """Two of three targets are gone, and what clients ask for with them."""
    nodes = [node for country in lab.status["countries"] for node in lab.nodes(country)]
    for node in nodes:
        await settled(registry, node)
    before = {node: sample.generation for node, sample in (await registry.samples(nodes)).items()}
    lab.command("stop", "whoami")
    try:
        for node in nodes:
            await until(registry, node, lambda s: None in s.targets.values(), 10)
        ends = time.monotonic() + 10
        while time.monotonic() < ends:
            samples = await registry.samples(nodes)
            assert {(s.tunnel, s.loss, s.dns_ok) for s in samples.values()} == {(Tunnel.UP, 0, True)}
            assert all(score.healthy for score in (await registry.scores(nodes)).values())
            await asyncio.sleep(0.1)
    finally:
        lab.command("start", "whoami")
    after = {node: sample.generation for node, sample in (await registry.samples(nodes)).items()}
    assert after == before, "no tunnel was started again for it"


@pytest.mark.parametrize("country", ["jp", "us"])
async def test_a_slow_node(lab: Lab, registry: Registry, country: str) -> None:
    node = lab.nodes(country)[0]
    await settled(registry, node)
    generation = (await sampled(registry, node) or pytest.fail("no sample")).generation
    with impaired(lab, server_of(lab, node), PORTS[country], delay=0.5):
        slow = await until(registry, node, lambda s: (s.connect_ms or 0) >= 450, 2 * 2)
        await until(registry, node, lambda s: (s.connect_ms or 0) >= 500, 5)
        last = await sampled(registry, node)
        assert last is not None
        assert (last.generation, last.loss) == (generation, 0), "slow is not dead"
    well = await until(registry, node, lambda s: s.connect_ms is not None and s.connect_ms < 100, 5)
    # What the relay still held when it went is lost: a round at most, which takes nothing down.
    assert (await sampled(registry, node) or last).generation == generation
    print(f"{country}: +500 ms in the sample after {slow:.2f} s, well again after {well:.2f} s")


async def test_loss_is_seen(lab: Lab, registry: Registry) -> None:
    node = lab.nodes("jp")[0]
    await settled(registry, node)
    with impaired(lab, server_of(lab, node), PORTS["jp"], loss=0.3):
        await until(registry, node, lambda s: s.loss > 0.1, 60)


async def test_a_health_check(lab: Lab, registry: Registry) -> None:
    """Control's own, of every exit: through its agent and its tunnel."""
    insights = f"http://{world.API}/v1/helpers/ips/insights"
    gate = Gate(insights, world.WHOAMI_NAME, OwnAddress(insights, [world.UPLINK_V4_GATEWAY]))
    nodes: dict[str, Node] = await registry.nodes()
    for country in lab.status["countries"]:
        node = nodes[lab.nodes(country)[0]]
        client = AgentClient(node.agent)
        began = time.monotonic()
        await client.connect()
        try:
            verdict = await gate.verify(node, client)
        finally:
            client.close()
        took = time.monotonic() - began
        assert verdict.outcome is Outcome.PASSED, verdict
        assert took < 5
        print(f"{country}: health check in {took * 1000:.0f} ms")


@pytest.mark.parametrize("part", ["collector", "scorer"])
async def test_a_killed(lab: Lab, registry: Registry, part: str) -> None:
    """The other one of the pair takes over; clients see nothing of it, scores stay, metrics are where they were."""
    nodes = [node for country in lab.status["countries"] for node in lab.nodes(country)]
    machine = (await registry.nodes())[nodes[0]].machine
    role = {"collector": f"collecting:{machine}", "scorer": "scorer"}[part]
    newest = {"collector": registry.samples, "scorer": registry.scores}[part]
    (metrics,) = lab.status["metrics"][part]
    host, _, port = metrics.partition(":")

    async def works() -> int:
        holder = await registry.leader(role)
        return int(holder.split(".")[1]) if holder else 0

    async def shown() -> bool:
        return f"(process {await works()})" in ports.holder(host, int(port))

    def running() -> dict[str, int]:
        pids: dict[str, int] = supervisor.ask(Place(Path(lab.status["state_dir"])), "status")["pids"]
        return {name: pid for name, pid in pids.items() if name in (part, f"{part}2")}

    assert len(running()) == 2
    pid = await works()
    scores = await registry.scores(nodes)
    assert all(score.healthy for score in scores.values())

    async def always_healthy(ended: Callable[[], bool]) -> None:
        while not ended():
            assert all(score.healthy for score in (await registry.scores(nodes)).values())
            await asyncio.sleep(0.1)

    async def within(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> float:
        began = time.monotonic()
        while not await condition():
            assert time.monotonic() - began < seconds, f"{what}: not within {seconds} s"
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def all_new() -> bool:
        found = await newest(nodes)
        return found.keys() == set(nodes) and all(one.at > at for one in found.values())

    async with traffic(lab, "jp", 2) as seen:
        os.kill(pid, signal.SIGKILL)
        killed, at = time.monotonic(), time.time() + 0.05
        watching = asyncio.ensure_future(always_healthy(lambda: time.monotonic() > killed + 8))
        took = await within(all_new, 5 * 2, "all nodes are judged again")
        await within(shown, 5 * 2, "the one that works shows its metrics")
        told = lab.run("curl", "-sf", f"http://{metrics}/metrics").stdout
        await watching
    assert all(f'node="{node}"' in told for node in nodes), told
    assert not seen.bad()
    assert len(running()) == 2
    assert pid not in running().values()
    assert await works() in running().values()
    print(f"{part}: all nodes told again {took:.2f} s after it was killed")

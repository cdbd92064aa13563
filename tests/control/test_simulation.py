"""The figure: 25 countries of 10 nodes, an engine that fails every tenth call, accounts with hardly a slot to spare.

Reconciler, plan, steps and Redis are the real ones; the engine, the provider and the clock are not. Chance is seeded.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from control.engine import EngineError
from control.providers import Choice, Closed, Wish, nobody
from health.config import RedisSettings
from health.model import Node, NodeStatus, Pool
from health.registry import Registry
from tests.control.conftest import FakeEngine, FakeProvider, World

COUNTRIES = (
    *("at", "au", "be", "br", "ca", "ch", "cz", "de", "dk", "es", "fi", "fr", "gb"),
    *("hu", "ie", "in", "it", "jp", "nl", "no", "pl", "pt", "ro", "se", "us"),
)
SIZE, ACCOUNTS, SLOTS, FAILURES = 10, 26, 10, 0.1
REFUSED = "out of order, as every tenth time"


class Unreliable(FakeEngine):
    """Every tenth call fails, every tenth container ends as it starts."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.failed = 0

    def unlucky(self) -> bool:
        return self._rng.random() < FAILURES

    def _check(self, call: str) -> None:
        super()._check(call)
        if self.unlucky():
            self.failed += 1
            raise EngineError(REFUSED)

    async def start(self, container_id: str) -> None:
        await super().start(container_id)
        if self.unlucky():
            self._set(container_id, "exited", 1)


class Accounts(FakeProvider):
    """So many accounts of so many slots; a server is given to one node of an account at a time."""

    def accounts(self) -> dict[str, int]:
        return {f"a{number}": SLOTS for number in range(ACCOUNTS)}

    async def choose(
        self, wish: Wish, others: Iterable[Node], avoid: Mapping[str, float], closed: Mapping[str, Closed]
    ) -> Choice:
        account = next((name for name in self.accounts() if name not in closed), None)
        if account is None:
            raise nobody(closed.values())
        taken = {node.vpn_server for node in others if node.account == account}
        server = next(name for name in (f"{wish.country}{n}" for n in range(400)) if name not in taken)
        return Choice(account, server, "", "198.18.10.11", 1194, "udp")


class Virtual(World):
    """A world whose time passes only when it is told to."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.engine = Unreliable(self.rng)
        self.provider = Accounts()

    def clock(self) -> float:
        return self.ahead

    def wall(self) -> float:
        return 1.8e9 + self.ahead


@pytest.fixture
def world() -> World:
    return Virtual(seed=20261125)


async def look(control: Any, *others: Any) -> dict[str, Node]:
    """A round of all, its steps, and what must hold at every moment."""
    everybody = (control, *others)
    await asyncio.gather(*(one.reconciler.tick() for one in everybody))
    await asyncio.gather(*(one.reconciler.settle() for one in everybody))
    for _ in range(4):  # agents answer
        await asyncio.sleep(0)
    nodes: dict[str, Node] = await control.registry.nodes()
    engine = control.world.engine
    running = [nodes[c.node] for c in engine.found.values() if c.state == "running" and c.node in nodes]
    assert all(count <= SLOTS for count in Counter(node.account for node in running).values()), (
        "over an account's slots"
    )
    places = Counter((node.account, node.vpn_server) for node in running)
    assert max(places.values(), default=0) <= 1, "two nodes of one account on one server"
    assert all(n <= SIZE + 1 for n in Counter(node.country for node in running).values()), "more than desired + 1"
    active = Counter(node.slot for node in nodes.values() if not node.status.ended)
    assert max(active.values(), default=0) <= 1, "two nodes in one slot"
    control.world.ahead += 1.0
    return nodes


def accident(world: Any, nodes: dict[str, Node]) -> None:
    """Something happens to one that serves."""
    running = world.engine.running
    victim = world.rng.choice(running) if running else ""
    if victim in nodes and victim in world.agents and nodes[victim].status is NodeStatus.SERVING:
        if world.rng.random() < 0.5:
            world.engine.kill(victim)
        else:
            world.tunnel(victim, "down", 1)


async def test_250_nodes_converge_whatever_fails_and_never_over_their_accounts(
    world: Any, new_control: Callable[..., Any]
) -> None:
    control = new_control(keep_ended=30, drain_deadline=5)
    began = time.process_time()
    await control.registry.begin_epoch()
    for country in COUNTRIES:
        await control.registry.put_pool(Pool(country=country, desired=SIZE))
    rounds = 0
    while True:
        nodes = await look(control)
        rounds += 1
        serving = Counter(node.country for node in nodes.values() if node.status is NodeStatus.SERVING)
        if rounds == 20:
            await control.fleet.rotate("jp")
        if rounds < 40:
            accident(world, nodes)
        elif all(serving[c] == SIZE for c in COUNTRIES) and not any(
            n.retire and not n.status.ended for n in nodes.values()
        ):
            break
        assert rounds < 300, serving
    assert world.engine.failed > 100
    assert rounds >= 40
    assert time.process_time() - began < 60


@pytest.mark.usefixtures("everybody_leads")
async def test_two_that_both_believe_to_lead_keep_every_limit(
    world: Any, new_control: Callable[..., Any], redis_url: str
) -> None:
    own = Registry.open(RedisSettings(url=redis_url, timeout=5.0))
    one, two = (new_control(on, keep_ended=30, drain_deadline=5) for on in (None, own))
    await one.registry.begin_epoch()
    countries = COUNTRIES[:4]
    for country in countries:
        await one.registry.put_pool(Pool(country=country, desired=SIZE))
    for rounds in range(300):
        nodes = await look(one, two)
        serving = Counter(node.country for node in nodes.values() if node.status is NodeStatus.SERVING)
        if rounds == 20:
            await asyncio.gather(one.fleet.rotate("at"), two.fleet.rotate("at"))
        if rounds < 30:
            accident(world, nodes)
        elif all(serving[c] == SIZE for c in countries) and not any(
            n.retire and not n.status.ended for n in nodes.values()
        ):
            break
    assert rounds < 299, serving
    assert one.reconciler.leader
    assert two.reconciler.leader
    await two.close()
    await own.close()

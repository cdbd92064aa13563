"""A fleet without Docker and without tunnels: stand-ins written by hand, on a real Redis.

`fleet` is a whole control (reconciler, steps, operator's side) over these; `fleet.settle()` runs rounds until a
condition holds.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from control.agents import Agents
from control.config import ControlSettings
from control.creating import Probing
from control.engine import EngineGoneError, NameTakenError, NotFoundError
from control.fleet import Fleet
from control.leadership import Term
from control.load import Carried
from control.model import LABEL, Container, Outcome, Verdict
from control.nodefiles import NodeFiles
from control.nodespec import Site
from control.placement import Placement
from control.providers import Choice, Closed, Material, ProviderError, Secret, Wish, nobody
from control.reconcile import Reconciler
from control.recovery import Keeper
from control.steps import Steps
from control.troubles import Troubles
from health.agent_client import AgentError, Hello
from health.config import RedisSettings
from health.model import Node, NodeStatus, Pool
from health.registry import Registry
from tests.control.told import Told


class FakeEngine:
    """Docker, as far as the reconciler knows it. `calls` counts; `gone` makes it silent."""

    def __init__(self, machine: str = "m1") -> None:
        self._machine = machine
        self.found: dict[str, Container] = {}
        self.bodies: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.gone = False
        self.refusal: Exception | None = None
        self.foreign_names: set[str] = set()
        self.output = "a line\n"
        self.watchers: list[asyncio.Queue[str | Exception]] = []
        self._made = 0

    async def containers(self) -> list[Container]:
        self._check("containers")
        return list(self.found.values())

    @property
    def machines(self) -> frozenset[str]:
        return frozenset({self._machine})

    async def create(self, name: str, body: dict[str, Any], machine: str) -> str:
        self._check("create")
        if self.refusal is not None:
            raise self.refusal
        if name in self.foreign_names or name in {c.name for c in self.found.values()}:
            raise NameTakenError(f"the name {name} is already in use")
        self._made += 1
        labels = body["Labels"]
        made = Container(
            id=f"id{self._made}",
            name=name,
            node=labels[LABEL + "node"],
            country=labels[LABEL + "country"],
            slot=labels[LABEL + "slot"],
            state="created",
        )
        self.found[made.id] = made
        self.bodies[made.node] = body
        return made.id

    async def start(self, container_id: str) -> None:
        self._check("start")
        self._set(container_id, "running", None)

    async def stop(self, container_id: str, grace: float) -> None:
        self._check("stop")
        self._set(container_id, "exited", 0)

    async def remove(self, container_id: str) -> None:
        self._check("remove")
        self.found.pop(container_id, None)

    async def logs(self, container_id: str, lines: int) -> str:
        self._check("logs")
        return self.output

    async def events(self) -> AsyncIterator[str]:
        self._check("events")
        queue: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.watchers.append(queue)
        yield ""
        while True:
            told = await queue.get()
            if isinstance(told, Exception):
                self.watchers.remove(queue)
                raise told
            yield told

    async def close(self) -> None:
        return None

    def of(self, node_id: str) -> Container | None:
        return next((c for c in self.found.values() if c.node == node_id), None)

    def kill(self, node_id: str, code: int = 137) -> None:
        found = self.of(node_id)
        assert found is not None
        self._set(found.id, "exited", code)

    def leave(self) -> None:
        """It stops answering, and its stream of events ends."""
        self.gone = True
        for watcher in self.watchers:
            watcher.put_nowait(EngineGoneError("Docker closed the stream of events"))

    @property
    def running(self) -> list[str]:
        return sorted(c.node for c in self.found.values() if c.state == "running")

    def _set(self, container_id: str, state: str, code: int | None) -> None:
        old = self.found.get(container_id)
        if old is None:
            raise NotFoundError("no such container")
        self.found[container_id] = Container(old.id, old.name, old.node, old.country, old.slot, state, code)
        for watcher in self.watchers:
            watcher.put_nowait(old.node)

    def _check(self, call: str) -> None:
        self.calls.append(call)
        if self.gone:
            raise EngineGoneError("Docker does not answer")


class FakeProvider:
    """Servers jp1, jp2 … of every country; `trouble` makes it refuse, `slots` is what its account allows."""

    def __init__(self) -> None:
        self.slots = 100
        self.elsewhere: set[str] = set()
        self.trouble = ""
        self.chosen: list[str] = []
        self.doubted: list[str] = []

    async def choose(
        self, wish: Wish, others: Iterable[Node], avoid: Mapping[str, float], closed: Mapping[str, Closed]
    ) -> Choice:
        if self.trouble:
            raise ProviderError(self.trouble)
        if "acct" in closed:
            raise nobody(closed.values())
        used = {node.vpn_server for node in others}
        names = (wish.server,) if wish.server else tuple(f"{wish.country}{n}.vpn.example" for n in range(1, 20))
        unused = [name for name in names if name not in used]
        free = next((name for name in unused if name not in avoid), unused[0] if unused else None)
        if free is None:
            raise ProviderError(f"no free server in {wish.country}")
        self.chosen.append(free)
        return Choice("acct", free, wish.city or "Tokyo", "198.18.10.11", 51820, "udp")

    async def material(self, node: Node) -> Material:
        if self.trouble:
            raise ProviderError(self.trouble)
        return Material(("103.86.96.100",), (Secret("auth.txt", 0, b"user\nsecret-password\n"),))

    def accounts(self) -> dict[str, int]:
        return {"acct": self.slots}

    def moved(self, nodes: Mapping[str, Node]) -> dict[str, str]:
        return {node_id: "moved" for node_id, node in nodes.items() if node.vpn_server in self.elsewhere}

    def refused(self, account: str) -> None:
        self.doubted.append(account)

    async def countries(self) -> tuple[str, ...]:
        if self.trouble:
            raise ProviderError(self.trouble)
        return ("gb", "jp", "us")

    async def close(self) -> None:
        return None


class FakeAgent:
    """An agent that is up while its container runs, unless the world says otherwise."""

    def __init__(self, world: "World", node_id: str, on_state: Any, on_close: Any) -> None:
        self._world = world
        self._node = node_id
        self._on_close = on_close
        self.on_state = on_state
        self.connected = False

    async def connect(self, timeout: float = 1.0) -> Hello:
        hello = await self.hello()
        self.connected = True
        self._world.agents[self._node] = self
        return hello

    async def hello(self, timeout: float = 1.0) -> Hello:
        found = self._world.engine.of(self._node)
        if found is None or found.state != "running" or self._node in self._world.silent:
            self.connected = False
            raise AgentError("agent not reachable: No such file or directory")
        tunnel, generation = self._world.tunnels.get(self._node, ("up", 1))
        return Hello(self._node, tunnel, generation, ("inet",), True, "")

    def lost(self) -> None:
        self.connected = False
        self._on_close()

    def close(self) -> None:
        self.connected = False


class FakeGate:
    """Says what the world tells it to say; else that all is well."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.asked: list[str] = []

    async def verify(self, node: Node, agent: Any) -> Verdict:
        self.asked.append(node.id)
        hello = await agent.hello()
        told = self._world.verdicts.get(node.id) or self._world.verdicts.get(node.country)
        if told is not None:
            return Verdict(told.outcome, hello.generation, told.reason, told.exit_ip, told.exit_country, told.leak)
        return Verdict(Outcome.PASSED, hello.generation, "", f"203.0.113.{int(node.id[2:], 16) % 250}", node.country)


class World:
    """Everything outside control: containers, agents, what the gate sees, and two clocks that a test may move."""

    def __init__(self, machine: str = "m1") -> None:
        self.engine = FakeEngine(machine)
        self.provider = FakeProvider()
        self.agents: dict[str, FakeAgent] = {}
        self.tunnels: dict[str, tuple[str, int]] = {}
        self.silent: set[str] = set()
        self.verdicts: dict[str, Verdict] = {}
        self.gate = FakeGate(self)
        self.ahead = 0.0
        self.load = Carried()

    async def carried(self) -> Carried:
        return self.load

    def wall(self) -> float:
        return time.time() + self.ahead

    def clock(self) -> float:
        return time.monotonic() + self.ahead

    def tunnel(self, node_id: str, state: str, generation: int) -> None:
        self.tunnels[node_id] = (state, generation)
        self.agents[node_id].on_state(state, generation)


class Control:
    """One control instance over a world."""

    def __init__(self, world: World, registry: Registry, state_dir: Path, **settings: Any) -> None:
        self._closed = False
        self.world = world
        self.registry = registry
        self.settings = ControlSettings(**{"machine": "m1", "fleet": "test", "tick": 0.05, **settings})
        self.files = NodeFiles(state_dir)
        with_engine = self.settings.engine == "docker"
        wake = asyncio.Event()
        self.agents = Agents(self.files.agent_socket, wake.set, world.clock, self._connect)
        machine = self.settings.machine
        self.placement = Placement(registry, {"nordvpn": world.provider}, machine, self.files.agent_socket)
        troubles = Troubles(registry)
        self.steps = Steps(
            registry=registry,
            engine=world.engine,
            placement=self.placement,
            files=self.files,
            agents=self.agents,
            gate=world.gate,
            site=Site("test", "exit-image", "uplink"),
            probing=Probing("probe.example", ("198.18.0.80:443",), "http://198.18.0.90/insights"),
            clock=world.clock,
            wall=world.wall,
            troubles=troubles,
        )
        self.reconciler = Reconciler(
            settings=self.settings,
            registry=registry,
            keeper=Keeper(state_dir),
            files=self.files,
            agents=self.agents,
            engine=world.engine if with_engine else None,
            steps=self.steps if with_engine else None,
            wake=wake,
            clock=world.clock,
            wall=world.wall,
            troubles=troubles,
            moved=self.placement.moved,
            load=world.carried,
        )
        self.fleet = Fleet(
            registry, self.placement, self.settings, self.reconciler.wake, elsewhere=self.reconciler.elsewhere
        )

    def _connect(self, path: str, *, on_state: Any, on_close: Any) -> Any:
        return FakeAgent(self.world, Path(path).parent.parent.name, on_state, on_close)

    async def settle(self, condition: Callable[[], Awaitable[Any]], within: float = 20.0) -> Any:
        """Run rounds until `condition` gives something true; returns that."""
        deadline = time.monotonic() + within
        while True:
            await self.reconciler.tick()
            await self.reconciler.settle()
            found = await condition()
            if found:
                return found
            assert time.monotonic() < deadline, f"not reached; nodes: {await self.registry.nodes()}"
            await asyncio.sleep(0.01)

    async def serving(self, country: str = "jp", count: int = 1, within: float = 20.0) -> list[Node]:
        """Settle until exactly `count` nodes of `country` serve."""

        async def reached() -> list[Node] | None:
            found = [
                n
                for n in (await self.registry.nodes()).values()
                if n.country == country and n.status is NodeStatus.SERVING
            ]
            return sorted(found, key=lambda n: n.slot) if len(found) == count else None

        return list(await self.settle(reached, within))

    async def pool(self, desired: int, country: str = "jp", **fields: Any) -> None:
        """Write a wish, as another instance's API would."""
        await self.registry.begin_epoch()
        old = await self.registry.pool(country) or Pool(country=country)
        await self.registry.put_pool(old.model_copy(update={"desired": desired, **fields}))

    async def later(self, seconds: float) -> None:
        """Let control look around, then move its clock."""
        await self.reconciler.tick()
        await self.reconciler.settle()
        self.world.ahead += seconds

    async def close(self) -> None:
        """End it; its containers stay. Idempotent."""
        if not self._closed:
            self._closed = True
            stop = asyncio.Event()
            stop.set()
            await self.reconciler.run(stop)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def registry(redis_url: str) -> AsyncIterator[Registry]:
    found = Registry.open(RedisSettings(url=redis_url, timeout=5.0))
    yield found
    await found.close()


@pytest.fixture
async def new_control(registry: Registry, world: World, tmp_path: Path) -> AsyncIterator[Callable[..., Control]]:
    """Makes instances of control on the shared world, Redis and state directory."""
    made: list[Control] = []

    def make(
        on: Registry | None = None, state_dir: Path | None = None, within: World | None = None, **settings: Any
    ) -> Control:
        made.append(Control(within or world, on or registry, state_dir or tmp_path, **settings))
        return made[-1]

    yield make
    for control in made:
        await control.close()


@pytest.fixture
def everybody_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instance believes to lead, whatever Redis says."""

    async def lead(registry: Registry, role: str, held: str, fresh: str, ttl: float) -> str:
        return held or fresh

    async def check(term: Term) -> None:
        return None

    monkeypatch.setattr(Registry, "lead", lead)
    monkeypatch.setattr(Term, "check", check)


@pytest.fixture
def fleet(new_control: Callable[..., Control]) -> Control:
    return new_control()


@pytest.fixture
async def told(registry: Registry) -> AsyncIterator[Told]:
    found = Told(registry)
    await found.caught_up()
    yield found
    await found.close()

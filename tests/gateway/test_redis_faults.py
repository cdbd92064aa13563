"""What goes wrong with Redis, under a real gateway that carries traffic all the while: clients notice nothing."""

import asyncio
import base64
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from health.config import RedisSettings
from health.model import NodeStatus, Pool
from health.registry import Registry, RegistryError
from tests.conftest import STALL_S
from tests.gateway.harness import Exit, Gateway, serve, wait_for
from tests.health.registry.forwarder import Forwarder, forwarding
from tests.health.registry.servers import MASTER, Server, Watched, until, watched

# A busy machine may take twice as long.
SLACK = 2
HEALED_S = 1.0 * SLACK + STALL_S
# A whole minute was tried, too.
LOST_S = 5
SLOW_S = 3.0
# The first use of a session waits for Redis 50 ms at most.
LOOK_UP_S = 0.05 + 0.2 * SLACK
# So many of a test's connections may meet a machine that stands still: they come one after the other.
STALLED = 2


@dataclass
class World:
    """`server` is Redis, `registry` goes to it straight, the gateway through `between`."""

    server: Server
    between: Forwarder
    registry: Registry
    gateway: Gateway
    exits: list[Exit]

    def age(self) -> float:
        found = re.search(r"^vpnexit_gateway_snapshot_age_seconds ([\d.e+-]+)$", self.gateway.metrics(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    async def is_read(self) -> None:
        """Redis can be read: the snapshot gets younger. One that is not read only ages."""
        await asyncio.to_thread(wait_for, lambda: self.age() < 1.0, what="a young snapshot")

    async def healed(self) -> float:
        """Seconds until a new node is chosen; what was wrong is over."""
        started = time.monotonic()
        while True:
            try:
                await serve(self.registry, self.exits[1])
                break
            except RegistryError:
                assert time.monotonic() - started < HEALED_S
        while not (await asyncio.to_thread(ask, self.gateway, "u-country-us"))[0]:
            assert time.monotonic() - started < HEALED_S
        print(f"healed after {time.monotonic() - started:.2f} s")
        return time.monotonic() - started


@asynccontextmanager
async def world(server: Server, exits: Any, directory: Path) -> AsyncIterator[World]:
    registry = Registry.open(RedisSettings(url=server.url, timeout=1))
    made = [exits("jp000001"), exits("us000001")]
    await serve(registry, made[0])
    await registry.begin_epoch()
    async with forwarding(server.port) as between:
        gateway = await asyncio.to_thread(Gateway, between.url, directory)
        try:
            found = World(server, between, registry, gateway, made)
            await asyncio.to_thread(wait_for, lambda: ask(gateway, "u-country-jp")[0], what="exit that serves")
            yield found
        finally:
            await asyncio.to_thread(gateway.close)
            await registry.close()


@pytest.fixture
async def redis(exits: Any, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    with Server(request.getfixturevalue("_redis_binary"), tmp_path, ['save ""']) as server:
        async with world(server, exits, tmp_path) as found:
            yield found


def ask(gateway: Gateway, user: str) -> tuple[bool, float]:
    """Whether the origin answered one request through the gateway, and after how many seconds."""
    login = base64.b64encode(f"{user}:x".encode()).decode()
    started = time.monotonic()
    with gateway.connect() as sock:
        sock.settimeout(20)
        sock.sendall(
            b"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nConnection: close\r\n"
            + f"Proxy-Authorization: Basic {login}\r\n\r\n".encode()
        )
        answer = b""
        while data := sock.recv(4096):
            answer += data
    return answer.startswith(b"HTTP/1.1 200 "), time.monotonic() - started


@dataclass
class Traffic:
    """Connections one after the other; every third is the first use of a session."""

    gateway: Gateway
    count: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._stop.wait(0.01):
            fresh = self.count % 3 == 0
            user = f"u-country-jp-session-s{self.count}" if fresh else "u-country-jp"
            try:
                worked, seconds = ask(self.gateway, user)
            except (TimeoutError, OSError):
                worked, seconds = False, 0.0
            self.count += 1
            self.failed += not worked
            self.seconds.append(seconds)

    @contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def unchanged(self) -> None:
        slow = sorted(second for second in self.seconds if second >= LOOK_UP_S)
        print(f"{self.count} connections, slowest {max(self.seconds):.3f} s, too slow: {slow}")
        assert self.count > 20
        assert self.failed == 0
        assert len(slow) <= STALLED, slow
        assert max(self.seconds) < LOOK_UP_S + STALL_S


async def test_slow_by_seconds(redis: World) -> None:
    with Traffic(redis.gateway).flowing() as traffic:
        redis.server.ask("CLIENT", "PAUSE", int(SLOW_S * 1000), "ALL")
        ends = time.monotonic() + SLOW_S
        await asyncio.to_thread(wait_for, lambda: redis.age() > 1.2, SLOW_S, "an age that tells")
        await asyncio.sleep(ends - time.monotonic())
        await redis.healed()
    traffic.unchanged()
    for said in ("Redis is gone; going on with the last snapshot", "Redis is back"):
        await asyncio.to_thread(wait_for, lambda said=said: said in redis.gateway.log.read_text(), what=said)


async def test_restarted_empty(redis: World) -> None:
    with Traffic(redis.gateway).flowing() as traffic:
        redis.server.kill()
        await asyncio.to_thread(wait_for, lambda: redis.age() > 1.5, what="an age that tells")
        await asyncio.to_thread(redis.server.start)
        await asyncio.sleep(1.5)
        assert redis.age() > 1.5, "an empty Redis is no fleet"
        await serve(redis.registry, redis.exits[0])
        await redis.registry.begin_epoch()
        await redis.healed()
    traffic.unchanged()


async def test_read_only(redis: World) -> None:
    with Traffic(redis.gateway).flowing() as traffic:
        redis.server.ask("REPLICAOF", "127.0.0.1", 1)
        await asyncio.sleep(2)
        await redis.is_read()
        redis.server.ask("REPLICAOF", "NO", "ONE")
        await redis.healed()
    traffic.unchanged()


async def test_full(redis: World) -> None:
    with Traffic(redis.gateway).flowing() as traffic:
        redis.server.ask("CONFIG", "SET", "maxmemory", 1)
        await asyncio.sleep(2)
        await redis.is_read()
        redis.server.ask("CONFIG", "SET", "maxmemory", 0)
        await redis.healed()
    traffic.unchanged()


@pytest.mark.parametrize("how", ["killed", "refused", "mute"])
async def test_subscriptions_lost(redis: World, how: str) -> None:
    """While changes go on: each is seen within a second by asking alone."""
    with Traffic(redis.gateway).flowing() as traffic:
        await redis.healed()
        redis.between.no_subscribers, redis.between.mute_subscribers = how == "refused", how == "mute"
        if how == "refused":
            redis.between.cut_subscribers()
        node = (await redis.registry.nodes())["us000001"]
        slowest, until_ = 0.0, time.monotonic() + LOST_S
        while time.monotonic() < until_:
            if how == "killed":
                redis.server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            away = node.status is NodeStatus.DRAINING
            node = node.model_copy(update={"status": NodeStatus.SERVING if away else NodeStatus.DRAINING})
            await redis.registry.put_node(node)
            changed = time.monotonic()
            while (await asyncio.to_thread(ask, redis.gateway, "u-country-us"))[0] is not away:
                assert time.monotonic() - changed < HEALED_S
                await asyncio.sleep(0.01)
            slowest = max(slowest, time.monotonic() - changed)
            await redis.is_read()
        print(f"slowest change {slowest:.2f} s")
        redis.between.no_subscribers = redis.between.mute_subscribers = False
    traffic.unchanged()


async def test_no_command_on_the_path_of_a_connection(redis: World) -> None:
    """Redis's own count: connections cost none, the first use of a session one, its further uses none."""
    await asyncio.to_thread(lambda: [ask(redis.gateway, "u-country-jp") for _ in range(5)])

    async def counted(users: list[str]) -> tuple[dict[str, int], float]:
        redis.server.ask("CONFIG", "RESETSTAT")
        started = time.monotonic()
        done = await asyncio.to_thread(lambda: [ask(redis.gateway, user)[0] for user in users])
        await asyncio.sleep(0.3)
        assert all(done)
        stats = redis.server.ask("INFO", "commandstats")
        calls = {name.removeprefix("cmdstat_"): int(one["calls"]) for name, one in stats.items()}
        for ours in ("config|resetstat", "info"):
            calls.pop(ours, None)
        return calls, time.monotonic() - started

    calls, seconds = await counted(["u-country-jp"] * 200)
    print(calls, f"{seconds:.1f} s")
    looks, report = {"mget", "ping", "subscribe", "get", "smembers"}, {"set", "sadd", "expire"}
    assert calls.keys() <= looks | report, "nothing but looks for changes, and once a second a report"
    assert sum(calls.values()) <= (4 + len(report)) * (seconds + 1)
    for turn in range(10):  # one that had no answer in its 50 ms asks again later, and others do not ask meanwhile
        calls, _ = await counted([f"u-country-jp-session-n{turn}x{number}" for number in range(50)])
        asked = calls["evalsha"] - calls.get("script|load", 0)
        if asked == 50:
            break
    assert asked == 50
    calls, _ = await counted([f"u-country-jp-session-n{turn}x{number % 50}" for number in range(200)])
    assert "evalsha" not in calls


async def test_a_master_killed_under_its_sentinels(exits: Any, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A gateway by sentinels: the replica takes over, traffic goes on, and what changes then is seen."""
    with watched(request.getfixturevalue("_redis_binary"), tmp_path) as trio:
        registry = Registry.open(RedisSettings(url="redis:///0", sentinels=trio.addresses, master=MASTER))
        jp, us = exits("jp000001"), exits("us000001")
        await serve(registry, jp)
        await registry.begin_epoch()
        assert trio.first.ask("WAIT", 1, 1000) == 1
        gateway = await asyncio.to_thread(SentinelGateway, trio, tmp_path)
        try:
            await asyncio.to_thread(wait_for, lambda: ask(gateway, "u-country-jp")[0], what="exit that serves")
            with Traffic(gateway).flowing() as traffic:
                await asyncio.sleep(0.5)
                trio.first.kill()
                await asyncio.to_thread(until, lambda: trio.second.role() == "master", "promoted replica", 40)
                promoted = time.monotonic()
                await put_until(registry, us)
                await asyncio.to_thread(wait_for, lambda: ask(gateway, "u-country-us")[0], what="new node")
                print(f"promoted to chosen {time.monotonic() - promoted:.2f} s")
                assert time.monotonic() - promoted < 2.5 * SLACK + STALL_S
            traffic.unchanged()
        finally:
            await asyncio.to_thread(gateway.close)
            await registry.close()


class SentinelGateway(Gateway):
    def __init__(self, trio: Watched, directory: Path) -> None:
        self._redis = {"url": "redis:///0", "sentinels": list(trio.addresses), "master": MASTER}
        super().__init__("", directory)

    def configure(self, **settings: object) -> None:
        super().configure(**settings)
        told = json.loads(self._plan.read_text())
        self._plan.write_text(json.dumps(told | {"redis": self._redis}))


async def put_until(registry: Registry, exit_: Exit) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            await serve(registry, exit_)
            await registry.put_pool(Pool(country="us"))
            return
        except RegistryError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

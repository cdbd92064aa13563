"""One leads: by terms on a real Redis, with instances that are killed, and paused in the middle of a call to Docker."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from control.engine import NameTakenError
from control.leadership import ROLE, Leadership, LostLeadError, alone
from deploy import ports
from health.config import RedisSettings
from health.model import NodeStatus, User
from health.registry import Registry, RegistryError

LEASE = 1.0  # for those that wait for its end
LONG = 30.0
CONTROL = """
import asyncio, sys
from pathlib import Path
from control.config import ControlSettings, NordVpnSettings
from control.main import run
from health.config import RedisSettings
listen, machine, url, state = sys.argv[1:]
settings = ControlSettings(listen=listen, machine=machine, engine="none", direct_nodes=("zz",))
asyncio.run(run(settings, NordVpnSettings(), RedisSettings(url=url), Path(state)))
"""


async def until(condition: Callable[[], Awaitable[Any]], within: float = 20.0) -> Any:
    deadline = time.monotonic() + within
    while not (found := await condition()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


async def test_one_of_two_leads_and_the_other_follows_it(registry: Registry) -> None:
    one, two = Leadership(registry, "m1", LONG), Leadership(registry, "m2", LONG)
    first = await one.renew()
    assert first is not None
    assert await two.renew() is None
    assert await one.renew() is first
    await first.check()
    await alone()
    await one.resign()
    assert one.term is None
    second = await two.renew()
    assert second is not None
    assert second.name.startswith("m2:")
    with pytest.raises(LostLeadError):
        await first.check()


async def test_a_lease_that_lapsed_begins_another_term_even_where_nobody_else_led(registry: Registry) -> None:
    one = Leadership(registry, "m1", LEASE)
    before = await one.renew()
    assert before is not None
    await until(lambda: _free(registry))
    after = await one.renew()
    assert after is not None
    assert after.name != before.name
    with pytest.raises(LostLeadError):
        await before.check()
    await after.check()


async def test_a_lead_that_was_taken_and_given_back_meanwhile_is_another_one(registry: Registry) -> None:
    one, two = Leadership(registry, "m1", LEASE), Leadership(registry, "m2", LEASE)
    before = await one.renew()
    await until(two.renew)
    await two.resign()
    after = await one.renew()
    assert before is not None
    assert after is not None
    assert before.name != after.name


async def test_the_lease_is_kept_while_a_round_takes_long(registry: Registry) -> None:
    one, two = Leadership(registry, "m1", LEASE), Leadership(registry, "m2", LEASE)
    term = await one.renew()
    keeping = asyncio.create_task(one.keep())
    try:
        deadline = time.monotonic() + 2 * LEASE
        while time.monotonic() < deadline:
            assert await two.renew() is None
            await asyncio.sleep(0.05)
    finally:
        keeping.cancel()
    assert one.term is term


async def test_a_redis_that_is_silent_for_a_moment_costs_nobody_the_lead(redis_server: Any) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=0.5))
    one = Leadership(registry, "m1", LONG)
    before = await one.renew()
    assert before is not None
    redis_server.pause()
    with pytest.raises(RegistryError):
        await one.renew()
    assert one.term is None
    redis_server.resume()
    after = await until(one.renew)
    assert after.name == before.name
    await before.check()
    await one.resign()
    assert await registry.leader(ROLE) == ""
    await registry.close()


async def _free(registry: Registry) -> bool:
    return await registry.leader(ROLE) == ""


class Paused:
    """Holds a call to the engine: `before` Docker heard of it, or after, before the answer came back."""

    def __init__(self, engine: Any, call: str, *, before: bool) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        self._real = getattr(engine, call)
        self._before = before
        self._first = True
        setattr(engine, call, self._call)

    async def _call(self, *args: Any) -> Any:
        first, self._first = self._first, False
        if first and self._before:
            await self._hold()
        try:
            return await self._real(*args)
        finally:
            if first and not self._before:
                await self._hold()

    async def _hold(self) -> None:
        self.reached.set()
        await self.go.wait()


@pytest.fixture
def two(new_control: Callable[..., Any]) -> tuple[Any, Any]:
    return new_control(lease=LEASE), new_control(lease=LEASE, machine="m1")


async def paused_in(first: Any, call: str, *, before: bool) -> Paused:
    paused = Paused(first.world.engine, call, before=before)

    async def there() -> bool:
        await first.reconciler.tick()
        await asyncio.sleep(0)
        return paused.reached.is_set()

    await until(there)
    return paused


async def takes_over(second: Any) -> None:
    async def leads() -> bool:
        await second.reconciler.tick()
        return bool(second.reconciler.leader)

    await until(leads)


@pytest.mark.parametrize("before", [True, False])
async def test_paused_in_a_create_and_resumed_after_another_took_over_makes_no_second_node_and_cuts_none(
    two: tuple[Any, Any], before: bool
) -> None:
    first, second = two
    engine = first.world.engine
    await first.pool(1)
    paused = await paused_in(first, "create", before=before)
    (node,) = (await first.registry.nodes()).values()
    await takes_over(second)
    (serving,) = await second.serving()
    assert serving.id == node.id
    paused.go.set()
    await first.reconciler.settle()
    await second.reconciler.tick()  # its lease is fresh
    await first.reconciler.tick()
    assert not first.reconciler.leader
    assert (await second.serving())[0].id == node.id
    assert engine.running == [node.id]
    assert len(engine.found) == 1
    assert engine.calls.count("start") == 1
    assert engine.calls.count("stop") == engine.calls.count("remove") == 0
    assert set(await first.registry.nodes()) == {node.id}


async def test_a_create_that_comes_through_after_its_node_was_given_up_is_never_started(
    two: tuple[Any, Any],
) -> None:
    first, second = two
    engine = first.world.engine
    await first.pool(1)
    paused = await paused_in(first, "create", before=True)
    (node,) = (await first.registry.nodes()).values()
    await second.registry.advance_node(node.model_copy(update={"status": NodeStatus.FAILED}), node.status)
    await takes_over(second)
    (other,) = await second.serving()
    paused.go.set()
    await first.reconciler.settle()
    assert engine.of(node.id).state == "created"
    assert engine.running == [other.id]

    async def removed() -> bool:
        return engine.of(node.id) is None

    await second.settle(removed)
    assert engine.running == [other.id]


async def test_paused_before_a_removal_it_removes_nothing_of_its_successor(two: tuple[Any, Any]) -> None:
    first, second = two
    engine = first.world.engine
    await first.pool(1)
    (node,) = await first.serving()
    engine.kill(node.id)
    paused = Paused(engine, "logs", before=False)
    await until(lambda: _ticked(first, paused))
    paused.go.set()
    await first.reconciler.settle()
    # Its last words are read; now in the middle of the removal of its container.
    paused = Paused(engine, "logs", before=False)
    await until(lambda: _ticked(first, paused))
    await takes_over(second)
    (successor,) = await second.serving()
    removals = engine.calls.count("remove")
    paused.go.set()
    await first.reconciler.settle()
    assert engine.calls.count("remove") == removals
    assert engine.running == [successor.id]


async def _ticked(control: Any, paused: Paused) -> bool:
    await control.reconciler.tick()
    await asyncio.sleep(0.01)
    return paused.reached.is_set()


async def test_a_name_that_is_taken_is_no_second_node(fleet: Any) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    with pytest.raises(NameTakenError):
        await fleet.world.engine.create(f"vpnexit-{node.id}", {}, "m1")
    assert await fleet.steps._creator.make(node, "") == fleet.world.engine.of(node.id).id


async def test_a_killed_leader_is_replaced_within_ten_seconds(
    registry: Registry, redis_url: str, tmp_path: Path
) -> None:
    async def start(machine: str) -> asyncio.subprocess.Process:
        arguments = [f"127.0.0.1:{ports.free()}", machine, redis_url, str(tmp_path / machine)]
        quiet = asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", CONTROL, *arguments, stdout=quiet, stderr=quiet
        )

    machines = {name: await start(name) for name in ("m1", "m2")}
    try:
        leader = await until(lambda: _leader(registry), 60.0)
        os.kill(machines[leader].pid, signal.SIGKILL)
        began = time.monotonic()

        async def other() -> bool:
            return await _leader(registry) not in ("", leader)

        await until(other, 30.0)
        assert time.monotonic() - began < 10 * 2
        assert await until(registry.nodes)
    finally:
        for process in machines.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_one_that_does_not_lead_keeps_a_copy_all_the_same(
    new_control: Callable[..., Any], registry: Registry, shared_redis: Any, tmp_path: Path
) -> None:
    first, second = new_control(lease=LONG), new_control(lease=LONG, state_dir=tmp_path / "second")
    await first.pool(0, target_connections=7)
    await first.reconciler.tick()
    await second.reconciler.tick()
    assert not second.reconciler.leader
    assert shared_redis.command("FLUSHALL") == "+OK"
    await second.settle(registry.epoch)
    pool = await registry.pool("jp")
    assert pool is not None
    assert pool.target_connections == 7


async def test_one_that_does_not_lead_says_why_a_wish_is_not_fulfilled(new_control: Callable[..., Any]) -> None:
    first, second = new_control(lease=LONG), new_control(lease=LONG)
    first.world.provider.trouble = "the provider has no servers in jp"
    await first.pool(1)
    for _ in range(2):
        await first.later(0)
    await second.reconciler.tick()
    assert not second.reconciler.leader
    assert second.reconciler.trouble("jp") == "the provider has no servers in jp"
    first.world.engine.gone = True
    await first.reconciler.tick()
    await second.reconciler.tick()
    assert second.reconciler.engine_trouble == "Docker does not answer"


async def test_users_made_while_docker_is_gone_are_in_the_copy(
    fleet: Any, registry: Registry, shared_redis: Any
) -> None:
    await fleet.settle(registry.epoch)
    fleet.world.engine.gone = True
    await fleet.reconciler.tick()
    await registry.put_user(User(name="alice", password_hash="h"))
    await fleet.reconciler.tick()
    assert shared_redis.command("FLUSHALL") == "+OK"
    fleet.world.engine.gone = False
    await fleet.settle(registry.epoch)
    assert set(await registry.users()) == {"alice"}


async def _leader(registry: Registry) -> str:
    return (await registry.leader(ROLE)).partition(":")[0]


async def test_a_node_that_another_leader_admitted_long_ago_fails_for_the_first_time(
    fleet: Any, new_control: Callable[..., Any]
) -> None:
    second = new_control()
    await fleet.pool(1)
    (node,) = await fleet.serving()
    for _ in range(6):  # from when it led last
        second.steps.backoff.failed("jp-0", 0.0, "")
    await fleet.later(60)
    await fleet.close()
    await second.reconciler.tick()
    assert second.reconciler.leader
    second.world.engine.kill(node.id, 70)

    async def failed() -> bool:
        return (await second.registry.node(node.id)).status is NodeStatus.FAILED

    await second.settle(failed)
    assert second.steps.backoff.not_before["jp-0"] - second.world.clock() <= 0.1

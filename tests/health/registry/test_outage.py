"""The registry while Redis is gone, silent, or refuses: every call ends in time, and recovers by itself."""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from health.config import RedisSettings
from health.limits import Ask
from health.model import Node, NodeStatus, Pool, Sample, Score, Token, User
from health.registry import Registry, RegistryError
from tests.conftest import STALL_S

SAMPLE = Sample(node="jp3f9a1c", at=1.0, reachable=False)
SCORE = Score(node="jp3f9a1c", at=1.0, value=0, healthy=False)
USER = User(name="bob", password_hash="x")
TOKEN = Token(id="0123456789ab", name="ci", scope="read", sha256="0" * 64, created_at=1.0)
POOL = Pool(country="jp")
ASK = Ask(
    user="bob",
    worker="w1",
    member="w1",
    month="202601",
    max_connections=1,
    bytes_per_second=0,
    monthly_bytes=0,
    open=1,
    demand=0,
    generation="",
    counted=0,
    unsettled=0,
    seen=0,
)
NODE = Node(id="jp3f9a1c", country="jp", kind="vpn", machine="m1", status="serving")

Call = Callable[[Registry], Coroutine[Any, Any, Any]]
READS: dict[str, Call] = {
    "ping": lambda r: r.ping(),
    "server": lambda r: r.server(),
    "node": lambda r: r.node("jp3f9a1c"),
    "recorded": lambda r: r.recorded("jp3f9a1c"),
    "nodes": lambda r: r.nodes(),
    "pool": lambda r: r.pool("jp"),
    "pools": lambda r: r.pools(),
    "users": lambda r: r.users(),
    "token": lambda r: r.token("0123456789ab"),
    "tokens": lambda r: r.tokens(),
    "samples": lambda r: r.samples(["jp3f9a1c"]),
    "scores": lambda r: r.scores(["jp3f9a1c"]),
    "collectors": lambda r: r.collectors(["m1"]),
    "claims": lambda r: r.claims(["jp-0"]),
    "epoch": lambda r: r.epoch(),
    "state": lambda r: r.state(),
    "troubles": lambda r: r.troubles(),
    "leader": lambda r: r.leader("reconciler"),
    "snapshot": lambda r: r.snapshot(),
    "usage": lambda r: r.usage(["bob"], "202601"),
}
WRITES: dict[str, Call] = {
    "put_node": lambda r: r.put_node(NODE),
    "delete_node": lambda r: r.delete_node("jp3f9a1c"),
    "advance_node": lambda r: r.advance_node(NODE, NodeStatus.VERIFYING),
    "claim_slot": lambda r: r.claim_slot("jp-0", NODE, ""),
    "release_slot": lambda r: r.release_slot("jp-0", "jp3f9a1c"),
    "retire": lambda r: r.retire(POOL, NODE, NodeStatus.SERVING),
    "put_pool": lambda r: r.put_pool(POOL),
    "put_user": lambda r: r.put_user(USER),
    "swap_user": lambda r: r.swap_user(USER, None),
    "delete_user": lambda r: r.delete_user("bob"),
    "put_token": lambda r: r.put_token(TOKEN),
    "delete_token": lambda r: r.delete_token("0123456789ab"),
    "put_samples": lambda r: r.put_samples("m1", [SAMPLE]),
    "put_scores": lambda r: r.put_scores([SCORE]),
    "begin_epoch": lambda r: r.begin_epoch(),
    "acquire": lambda r: r.acquire("scorer", "a", 3),
    "release": lambda r: r.release("scorer", "a"),
    "put_troubles": lambda r: r.put_troubles({"engine": "gone"}),
    "lead": lambda r: r.lead("reconciler", "", "m1:1", 3),
    "publish": lambda r: r.publish("x", "y"),
    "renew_limits": lambda r: r.renew_limits([ASK]),
    "pin_session": lambda r: r.pin_session("bob", "s1", "jp3f9a1c", 60),
}
CALLS = READS | WRITES
# What remains of a write when memory is full or the server is a replica.
FREES = {"delete_node", "delete_user", "delete_token", "release", "release_slot", "publish", "advance_node", "retire"}
# Twice 250 ms, and what a busy machine adds.
IN_TIME_S = 1.2 + STALL_S


def test_no_method_is_forgotten() -> None:
    methods = {name for name, kind in inspect.getmembers(Registry, inspect.iscoroutinefunction) if name[0] != "_"}
    assert methods - {"close"} == CALLS.keys()


async def all_fail(registry: Registry, calls: dict[str, Call] = CALLS) -> None:
    """Every one of `calls` raises RegistryError in time."""

    async def fails(name: str, call: Call) -> None:
        started = time.monotonic()
        with pytest.raises(RegistryError, match="Redis"):
            await call(registry)
        assert time.monotonic() - started < IN_TIME_S, name

    await asyncio.gather(*(fails(name, call) for name, call in calls.items()))


async def until_it_answers(registry: Registry) -> None:
    """The first call that works, and then all of them."""
    async with asyncio.timeout(30):
        while True:
            try:
                await registry.ping()
                break
            except RegistryError:
                await asyncio.sleep(0.01)
    for _ in range(3):
        await registry.put_node(NODE)
        assert await registry.nodes() == {NODE.id: NODE}
        assert await registry.epoch() == ""
        assert await registry.acquire("scorer", "a", 3)


async def test_stopped_and_started_again(own_registry: Registry, redis_server: Any) -> None:
    await until_it_answers(own_registry)
    redis_server.stop()
    await all_fail(own_registry)
    redis_server.start()
    await until_it_answers(own_registry)


async def test_restarted_between_two_calls_is_not_even_noticed(own_registry: Registry, redis_server: Any) -> None:
    for _ in range(3):
        await own_registry.put_node(NODE)
        assert await own_registry.acquire("scorer", "a", 3)
        redis_server.stop()
        redis_server.start()
    assert await own_registry.nodes() == {}


async def test_never_started() -> None:
    registry = Registry.open(RedisSettings(url="unix:///nonexistent/redis.sock"))
    await all_fail(registry)
    await registry.close()


async def test_silent_and_back(own_registry: Registry, redis_server: Any) -> None:
    await until_it_answers(own_registry)
    redis_server.pause()
    try:
        await all_fail(own_registry)
        started = time.monotonic()
        failed = await asyncio.gather(*(own_registry.ping() for _ in range(50)), return_exceptions=True)
        assert all(isinstance(error, RegistryError) for error in failed)
        assert time.monotonic() - started < 2 * IN_TIME_S
    finally:
        redis_server.resume()
    await own_registry.delete_node(NODE.id)
    await until_it_answers(own_registry)


async def test_closing_does_not_wait_for_a_silent_server(redis_server: Any) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url))
    await asyncio.gather(*(registry.ping() for _ in range(3)))
    redis_server.pause()
    started = time.monotonic()
    await registry.close()
    assert time.monotonic() - started < IN_TIME_S
    redis_server.resume()


async def test_paused_by_an_administrator(own_registry: Registry, redis_server: Any) -> None:
    await until_it_answers(own_registry)
    assert redis_server.command("CLIENT", "PAUSE", "2000") == "+OK"
    await all_fail(own_registry, {name: CALLS[name] for name in ("nodes", "put_samples", "snapshot")})
    await until_it_answers(own_registry)


async def test_cancelled_calls_leave_no_answer_to_the_next(own_registry: Registry, redis_server: Any) -> None:
    await own_registry.put_node(NODE)
    for _ in range(5):
        redis_server.pause()
        calls = [asyncio.create_task(own_registry.nodes()) for _ in range(4)]
        await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        redis_server.resume()
        assert await own_registry.epoch() == ""
        assert await own_registry.nodes() == {NODE.id: NODE}


async def test_a_greeting_cut_short_leaves_no_answer_to_the_next(own_registry: Registry, redis_server: Any) -> None:
    """A connection that was being opened when its call ended is not used as if it were open (redis-py sees to it)."""
    for _ in range(3):
        redis_server.pause()
        calls = [asyncio.create_task(own_registry.nodes()) for _ in range(4)]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        later = [asyncio.create_task(own_registry.acquire("scorer", "a", 3)) for _ in range(4)]
        await asyncio.sleep(0.02)
        redis_server.resume()
        assert await asyncio.gather(*later) == [True] * 4
        assert [await own_registry.epoch() for _ in range(4)] == [""] * 4


async def test_full(own_registry: Registry, redis_server: Any) -> None:
    await own_registry.put_node(NODE)
    assert redis_server.command("CONFIG", "SET", "maxmemory", "1") == "+OK"
    await all_fail(own_registry, {name: call for name, call in WRITES.items() if name not in FREES})
    assert await own_registry.nodes() == {NODE.id: NODE}
    redis_server.command("CONFIG", "SET", "maxmemory", "0")
    await own_registry.delete_node(NODE.id)
    await until_it_answers(own_registry)


async def test_read_only(own_registry: Registry, redis_server: Any) -> None:
    await own_registry.put_node(NODE)
    assert redis_server.command("REPLICAOF", "127.0.0.1", "1") == "+OK"
    refused = {name: call for name, call in WRITES.items() if name not in FREES}
    await all_fail(own_registry, refused | {"delete_node": WRITES["delete_node"]})
    assert await own_registry.nodes() == {NODE.id: NODE}
    redis_server.command("REPLICAOF", "NO", "ONE")
    await until_it_answers(own_registry)


async def test_loading(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.read(65536)).strip():
            writer.write(b"-LOADING Redis is loading the dataset in memory\r\n" * 4)
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "redis.sock"):
        registry = Registry.open(RedisSettings(url=f"unix://{tmp_path}/redis.sock"))
        await all_fail(registry)
        await registry.close()


@pytest.mark.parametrize(
    ("setting", "value", "match"),
    [("requirepass", "secret", "uthentication"), ("maxclients", "1", "max number|Connection lost")],
)
async def test_turned_away(own_registry: Registry, redis_server: Any, setting: str, value: str, match: str) -> None:
    assert redis_server.command("CONFIG", "SET", setting, value) == "+OK"
    if setting == "maxclients":
        await own_registry.ping()
    other = Registry.open(RedisSettings(url=redis_server.url))
    with pytest.raises(RegistryError, match=match):
        await other.nodes()
    await other.close()


async def test_password_is_sent_and_never_told(redis_server: Any) -> None:
    redis_server.command("CONFIG", "SET", "requirepass", "open-sesame")
    right = Registry.open(RedisSettings(url=redis_server.url, password="open-sesame"))
    await right.ping()
    await right.close()
    wrong = Registry.open(RedisSettings(url=redis_server.url, password="sesame-street"))
    with pytest.raises(RegistryError) as caught:
        await wrong.ping()
    await wrong.close()
    assert "sesame" not in str(caught.value)
    assert "sesame" not in repr(RedisSettings(url=redis_server.url, password="open-sesame"))


async def hears(registry: Registry, events: Any, subject: str) -> bool:
    """True once an event about `subject` has come through."""
    heard = asyncio.ensure_future(anext(events))
    async with asyncio.timeout(30):
        while True:
            while not heard.done():
                await registry.publish("x", subject)
                await asyncio.wait([heard], timeout=0.02)
            if (await heard)["subject"] == subject:
                return True
            heard = asyncio.ensure_future(anext(events))


async def lost(events: Any) -> float:
    """Seconds until the subscription is told to be lost."""
    started = time.monotonic()
    with pytest.raises(RegistryError):
        async for _ in events:
            pass
    return time.monotonic() - started


async def test_events_end_with_the_server_and_work_again(own_registry: Registry, redis_server: Any) -> None:
    async with aclosing(own_registry.events()) as events:
        assert await hears(own_registry, events, "one")
        redis_server.stop()
        assert await lost(events) < 2.5 + STALL_S
    async with aclosing(own_registry.events()) as events:
        assert await lost(events) < IN_TIME_S
    redis_server.start()
    async with aclosing(own_registry.events()) as events:
        assert await hears(own_registry, events, "two")


async def test_silent_server_is_noticed_by_the_subscriber(own_registry: Registry, redis_server: Any) -> None:
    async with aclosing(own_registry.events()) as events:
        assert await hears(own_registry, events, "one")
        redis_server.pause()
        try:
            assert await lost(events) < 2.5 + STALL_S
            async with aclosing(own_registry.events()) as again:
                assert await lost(again) < IN_TIME_S
        finally:
            redis_server.resume()
    async with aclosing(own_registry.events()) as events:
        assert await hears(own_registry, events, "two")


async def test_quiet_subscription_is_kept(own_registry: Registry, redis_server: Any) -> None:
    async with aclosing(own_registry.events()) as events:
        assert await hears(own_registry, events, "one")
        waiting = asyncio.ensure_future(anext(events))
        done, _ = await asyncio.wait([waiting], timeout=3.5)
        assert not done
        await own_registry.publish("x", "after the quiet")
        async with asyncio.timeout(20):
            assert (await waiting)["subject"] == "after the quiet"


async def test_abandoned_subscriptions_leave_no_connection(own_registry: Registry, redis_server: Any) -> None:
    for _ in range(5):
        async with aclosing(own_registry.events()) as events:
            assert await hears(own_registry, events, "x")
    assert redis_server.command("PUBSUB", "NUMSUB", "vx:1:events") == "*2"
    deadline = time.monotonic() + 20
    while redis_server.command("PUBLISH", "vx:1:events", "{}") != ":0":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)

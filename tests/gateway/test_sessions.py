"""Same user and session, same node: in one gateway, between gateways, and while Redis is gone."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import pools, sessions
from gateway.balance import pick_sticky
from gateway.pools import Choice, Fleet
from gateway.sessions import LOOK_UP_S, Sessions
from gateway.want import Want
from gateway.wire.base import WireError
from health.config import RedisSettings
from health.model import NodeStatus, Pool
from health.reasons import Reason
from health.registry import PREFIX, Registry, RegistryError
from tests.gateway.harness import Exit, Gateway, curl, serve, wait_for
from tests.gateway.stub_fleet import StubFleet, node, score

JP = [node(f"jp{n:06x}") for n in range(1, 7)]
# Of the first three nodes, and of all six, rendezvous hashing takes another one.
DIFFER = "s2"
# The look-up's 50 ms, and what a busy machine adds. Without that bound it would be the registry's time-out.
TIMEOUT_S = 2.0
IN_TIME_S = LOOK_UP_S + 1.5


def want(session: str = "s", country: str | None = "jp", **fields: Any) -> Want:
    return Want(country=country, session=session, **fields)


async def connect(fleet: Fleet, wanted: Want, user: str = "u", **given: Any) -> Choice:
    """What a dial does."""
    if not fleet.knows_session(wanted, user):
        await fleet.recall_session(wanted, user, given.get("allowed", ()))
    return fleet.choose(wanted, user, **given)


def refused(fleet: Fleet, wanted: Want, **given: Any) -> WireError:
    with pytest.raises(WireError) as caught:
        fleet.choose(wanted, "u", **given)
    return caught.value


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(pools, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


# one gateway, no Redis


def test_every_gateway_gives_a_session_the_same_node() -> None:
    first, second = StubFleet(*JP), StubFleet(*reversed(JP))
    picked = [first.choose(want(f"s{n}"), "u").node.id for n in range(40)]
    assert picked == [second.choose(want(f"s{n}"), "u").node.id for n in range(40)]
    assert len(set(picked)) == 6


def test_users_do_not_share_sessions() -> None:
    fleet = StubFleet(*JP)
    assert len({fleet.choose(want(), f"user{n}").node.id for n in range(40)}) == 6


def test_a_session_stays_when_better_nodes_come() -> None:
    fleet = StubFleet(*JP[:3])
    names = [f"s{n}" for n in range(30)]
    before = [fleet.choose(want(name), "u").node for name in names]
    fleet.take(*JP, *(score(n.id, 5, healthy=False) for n in JP[:3]))
    for _ in range(5):
        fleet.failed(before[0].id)
    assert [fleet.choose(want(name), "u") for name in names] == [(n, fleet.links[n.id], "") for n in before]


def test_a_soft_session_moves_when_its_node_dies_and_says_so_once() -> None:
    fleet = StubFleet(*JP)
    first = fleet.choose(want(), "u")
    assert first.moved == ""
    fleet.link(first.node.id).up = False
    second = fleet.choose(want(), "u")
    assert second.node != first.node
    assert second.moved == first.node.id
    fleet.link(first.node.id).up = True
    fleet.touched()
    assert fleet.choose(want(), "u") == (second.node, second.link, "")


def test_a_strict_session_fails_and_stays_where_it_was() -> None:
    fleet = StubFleet(*JP)
    first = fleet.choose(want(strict=True), "u")
    fleet.link(first.node.id).up = False
    for _ in range(3):
        error = refused(fleet, want(strict=True))
        assert error.reason is Reason.NO_NODE
        assert first.node.id in error.detail
    fleet.link(first.node.id).up = True
    assert fleet.choose(want(strict=True), "u").node == first.node


def test_a_node_that_failed_the_dial_is_left_by_a_soft_session_only() -> None:
    fleet = StubFleet(*JP)
    first = fleet.choose(want(), "u").node.id
    fleet.choose(want(), "u")
    assert refused(fleet, want(strict=True), tried={first}).reason is Reason.NO_NODE
    second = fleet.choose(want(), "u", tried={first})
    third = fleet.choose(want(), "u", tried={first, second.node.id})
    assert second.moved == third.moved == first, "where the client was, not what was tried on the way"
    assert fleet.choose(want(), "u") == (third.node, third.link, "")


def test_a_session_ends_its_ttl_after_the_last_use(clock: SimpleNamespace) -> None:
    fleet = StubFleet(*JP[:3])
    before = fleet.choose(want(DIFFER, ttl=60.0), "u").node
    fleet.take(*JP)
    clock.now += 59
    assert fleet.choose(want(DIFFER, ttl=60.0), "u").node == before
    clock.now += 59
    assert fleet.choose(want(DIFFER, ttl=60.0), "u").node == before
    clock.now += 61
    assert fleet.choose(want(DIFFER, ttl=60.0), "u").node != before


def test_refused_tries_do_not_prolong_a_strict_session(clock: SimpleNamespace) -> None:
    fleet = StubFleet(*JP)
    first = fleet.choose(want(strict=True), "u").node.id
    fleet.link(first).up = False
    for _ in range(2):
        clock.now += 299
        refused(fleet, want(strict=True))
    clock.now += 3
    assert fleet.choose(want(strict=True), "u").node.id != first


# what the connection asks for, and where its session is


def test_asked_for_in_another_country_a_soft_session_moves_there() -> None:
    fleet = StubFleet(*JP, node("us000001"))
    first = fleet.choose(want(), "u").node
    assert fleet.choose(want(country=None), "u").node == first
    there = fleet.choose(want(country="us"), "u")
    assert (there.node.id, there.moved) == ("us000001", first.id)
    assert fleet.choose(want(country=None), "u").node.id == "us000001"


def test_asked_for_in_another_country_a_strict_session_is_refused() -> None:
    fleet = StubFleet(*JP, node("us000001"))
    first = fleet.choose(want(strict=True), "u").node.id
    error = refused(fleet, want(country="us", strict=True))
    assert error.reason is Reason.BAD_WANT
    assert error.detail == f"this strict session is on {first} in jp: ask for that, or name another session"
    assert fleet.choose(want(strict=True), "u").node.id == first


def test_a_node_together_with_a_session() -> None:
    fleet = StubFleet(*JP)
    first = fleet.choose(want(node="jp000002"), "u")
    assert first.node.id == "jp000002"
    assert fleet.choose(want(), "u").node.id == "jp000002"
    moved = fleet.choose(want(node="jp000003"), "u")
    assert (moved.node.id, moved.moved) == ("jp000003", "jp000002")
    assert refused(fleet, want(node="jp000002", strict=True)).reason is Reason.BAD_WANT
    assert fleet.choose(want(node="jp000003", strict=True), "u").node.id == "jp000003"


def test_a_city_counts_like_a_country() -> None:
    fleet = StubFleet(node("jp000001", city="Tokyo"), node("jp000002", city="Osaka"))
    assert fleet.choose(want(city="tokyo"), "u").node.id == "jp000001"
    assert fleet.choose(want(city="osaka"), "u").moved == "jp000001"
    with pytest.raises(WireError, match="in Osaka jp"):
        fleet.choose(want(city="tokyo", strict=True), "u")


def test_a_user_leaves_a_country_he_may_not_use_any_more() -> None:
    fleet = StubFleet(*JP, node("us000001"))
    first = fleet.choose(want(country=None, node="jp000001"), "u").node.id
    error = refused(fleet, want(country=None, strict=True), allowed=("us",))
    assert error.reason is Reason.COUNTRY_FORBIDDEN
    there = fleet.choose(want(country=None), "u", allowed=("us",))
    assert (there.node.id, there.moved) == ("us000001", first)


def test_a_session_stays_in_a_fallback_while_its_node_lives() -> None:
    fallback = Pool(country="jp", fallback=("gb",))
    fleet = StubFleet(node("gb000001"), fallback)
    assert fleet.choose(want(strict=True), "u").node.id == "gb000001"
    fleet.take(node("gb000001"), *JP, fallback)
    assert fleet.choose(want(strict=True), "u").node.id == "gb000001"
    assert fleet.choose(want(), "u") == (fleet.snapshot.nodes["gb000001"], fleet.links["gb000001"], "")
    fleet.link("gb000001").up = False
    assert fleet.choose(want(), "u").node.country == "jp"


async def test_sessions_are_bounded_and_the_least_used_goes_first() -> None:
    kept = Sessions(most=3)
    for n in range(3):
        kept.place(("u", f"s{n}"), "jp000001", 60, now=n)
    first = kept.find(("u", "s0"), 3)
    assert first is not None
    kept.use(("u", "s0"), first, 60, now=3)
    kept.place(("u", "s3"), "jp000001", 60, now=4)
    assert [kept.find(("u", f"s{n}"), 5) is not None for n in range(4)] == [True, False, True, True]


# several gateways, a real Redis


@pytest.fixture
async def prompt_gateway(redis_server: Any) -> AsyncIterator[Callable[..., StubFleet]]:
    """Makes fleets that share the Redis of this test."""
    made: list[tuple[StubFleet, Registry]] = []

    def make(*records: Any, **settings: Any) -> StubFleet:
        fleet, registry = StubFleet(*records), Registry.open(RedisSettings(url=redis_server.url, **settings))
        fleet.sessions.store = registry
        made.append((fleet, registry))
        return fleet

    yield make
    for fleet, registry in made:
        await fleet.close()
        await registry.close()


@pytest.fixture
def gateway(prompt_gateway: Callable[..., StubFleet], monkeypatch: pytest.MonkeyPatch) -> Callable[..., StubFleet]:
    """The same, with time for a Redis that lives on a busy machine."""
    monkeypatch.setattr(sessions, "LOOK_UP_S", 5)
    return lambda *records: prompt_gateway(*records, timeout=2)


async def recorded(server: Any, name: str, user: str = "u") -> str | None:
    """The node that Redis has, once the writes on the way have arrived."""
    client = Registry.open(RedisSettings(url=server.url, timeout=5))
    try:
        text = await client._redis.get(PREFIX + f"session:{user}:{name}")
    finally:
        await client.close()
    return json.loads(text)["node"] if text else None


async def until_recorded(server: Any, name: str, expected: str) -> None:
    async with asyncio.timeout(20):
        while await recorded(server, name) != expected:
            await asyncio.sleep(0.01)


def hashed(name: str, nodes: list[Any], user: str = "u") -> str:
    found = pick_sticky(f"{user}:{name}", StubFleet(*nodes).roster._countries["jp"])
    assert found is not None
    return found.id


async def test_gateways_agree_though_their_pools_differ(gateway: Callable[..., StubFleet], redis_server: Any) -> None:
    assert hashed(DIFFER, JP[:3]) != hashed(DIFFER, JP)
    small, large = gateway(*JP[:3]), gateway(*JP)
    first = await connect(small, want(DIFFER))
    assert first.node.id == hashed(DIFFER, JP[:3])
    assert await recorded(redis_server, DIFFER) == first.node.id
    assert (await connect(large, want(DIFFER))).node == first.node
    assert (await connect(large, want(DIFFER), user="other")).node.id == hashed(DIFFER, JP, "other")


async def test_of_gateways_that_begin_at_once_the_first_writer_wins(gateway: Callable[..., StubFleet]) -> None:
    fleets = [gateway(*JP[: n + 1]) for n in range(6)]
    picked = await asyncio.gather(*(connect(fleet, want(ttl=60.0)) for fleet in fleets for _ in range(5)))
    placed = {choice.node.id for choice in picked}
    # A gateway that does not know the node moves the session; those that do agree.
    assert {choice.node.id for choice in picked[-5:]} <= placed
    later = {(await connect(fleet, want(ttl=60.0))).node.id for fleet in fleets[3:]}
    assert len(later) == 1


async def test_a_session_outlives_its_gateway_and_a_change_of_the_pool(gateway: Callable[..., StubFleet]) -> None:
    first = await connect(gateway(*JP[:3]), want(DIFFER))
    again = await connect(gateway(*JP), want(DIFFER))
    assert (again.node, again.moved) == (first.node, "")


async def test_a_move_is_recorded_and_told_by_every_gateway(
    gateway: Callable[..., StubFleet], redis_server: Any
) -> None:
    one, other = gateway(*JP), gateway(*JP)
    first = (await connect(one, want())).node.id
    assert (await connect(other, want())).node.id == first
    one.take(*JP[:4], *(node(n.id, NodeStatus.DRAINING) for n in JP[4:]))  # this one's pool is smaller, too
    one.link(first).up = False
    moved = await connect(one, want())
    assert moved.moved == first
    assert await recorded(redis_server, "s") == moved.node.id
    other.link(first).up = False
    told = await connect(other, want())
    assert (told.node.id, told.moved) == (moved.node.id, first)
    assert (await connect(other, want())).moved == ""
    fresh = gateway(*JP)
    assert (await connect(fresh, want())).node.id == moved.node.id


async def test_a_move_within_a_dial_is_recorded(gateway: Callable[..., StubFleet], redis_server: Any) -> None:
    fleet = gateway(*JP)
    first = (await connect(fleet, want())).node.id
    second = fleet.choose(want(), "u", tried={first})
    assert second.moved == first
    await until_recorded(redis_server, "s", second.node.id)


async def test_a_strict_session_is_not_placed_anew(gateway: Callable[..., StubFleet], redis_server: Any) -> None:
    first = (await connect(gateway(*JP), want(strict=True))).node.id
    fleet = gateway(*JP)
    fleet.link(first).up = False
    for _ in range(3):
        with pytest.raises(WireError, match=f"{first} of this strict session"):
            await connect(fleet, want(strict=True))
    assert await recorded(redis_server, "s") == first
    fleet.link(first).up = True
    assert (await connect(fleet, want(strict=True))).node.id == first
    with pytest.raises(WireError, match="this strict session is on"):
        await connect(gateway(*JP, node("us000001")), want(country="us", strict=True))


async def test_the_expiry_is_refreshed_off_the_path_every_quarter(
    gateway: Callable[..., StubFleet], redis_server: Any, clock: SimpleNamespace
) -> None:
    clock.now = time.monotonic()
    fleet, key = gateway(*JP), PREFIX + "session:u:s"
    await connect(fleet, want(ttl=100.0))
    assert 120_000 < int(redis_server.command("PTTL", key)[1:]) <= 125_000
    redis_server.command("PEXPIRE", key, "60000")
    clock.now += 24
    fleet.choose(want(ttl=100.0), "u")
    assert not fleet.sessions._requests
    clock.now += 2
    fleet.choose(want(ttl=100.0), "u")
    assert int(redis_server.command("PTTL", key)[1:]) <= 60_000, "nothing waits for it"
    async with asyncio.timeout(20):
        while int(redis_server.command("PTTL", key)[1:]) <= 60_000:
            await asyncio.sleep(0.01)


async def test_another_gateways_choice_is_followed_when_it_is_learnt(
    gateway: Callable[..., StubFleet], redis_server: Any, clock: SimpleNamespace
) -> None:
    """Both began a session while Redis was gone; the soft one follows, the strict one keeps its node."""
    clock.now = time.monotonic()
    fleet = gateway(*JP)
    store, fleet.sessions.store = fleet.sessions.store, None
    soft, strict = fleet.choose(want("a"), "u").node.id, fleet.choose(want("b", strict=True), "u").node.id
    fleet.sessions.store = store
    elsewhere = next(n.id for n in JP if n.id not in (soft, strict))
    for name in "ab":
        redis_server.command("SET", PREFIX + f"session:u:{name}", json.dumps({"schema": 1, "node": elsewhere}))
    assert fleet.choose(want("a"), "u").node.id == soft
    assert fleet.choose(want("b", strict=True), "u").node.id == strict
    await asyncio.gather(*fleet.sessions._requests.values())
    followed = fleet.choose(want("a"), "u")
    assert (followed.node.id, followed.moved) == (elsewhere, soft)
    assert fleet.choose(want("b", strict=True), "u").node.id == strict


# Redis silent, gone, empty


async def timed(fleet: Fleet, wanted: Want) -> tuple[str, float]:
    started = time.monotonic()
    choice = await connect(fleet, wanted)
    return choice.node.id, time.monotonic() - started


@pytest.mark.parametrize("how", ["client pause", "stopped process", "gone"])
async def test_without_redis_the_hash_decides_in_bounded_time(
    prompt_gateway: Callable[..., StubFleet], redis_server: Any, how: str
) -> None:
    fleet = prompt_gateway(*JP, timeout=TIMEOUT_S)
    expected = [hashed(f"s{n}", JP) for n in range(200)]
    await connect(fleet, want("warm"))
    if how == "client pause":
        redis_server.command("CLIENT", "PAUSE", "30000", "ALL")
    elif how == "stopped process":
        redis_server.pause()
    else:
        redis_server.stop()
    picked, took = await timed(fleet, want("first"))
    assert picked == hashed("first", JP)
    assert took < IN_TIME_S
    started = time.monotonic()
    assert not fleet.sessions.reachable(started)
    picked_later = [(await connect(fleet, want(f"s{n}"))).node.id for n in range(200)]
    assert time.monotonic() - started < IN_TIME_S, "200 new sessions wait no more than one"
    assert picked_later == expected
    assert (await connect(fleet, want("warm"))).moved == ""
    if how == "stopped process":
        redis_server.resume()


async def test_many_sessions_at_the_moment_redis_falls_silent(
    prompt_gateway: Callable[..., StubFleet], redis_server: Any
) -> None:
    fleet = prompt_gateway(*JP, timeout=TIMEOUT_S)
    await connect(fleet, want("warm"))
    redis_server.pause()
    try:
        started = time.monotonic()
        await asyncio.gather(*(connect(fleet, want(f"s{n}")) for n in range(300)))
        assert time.monotonic() - started < 2 * IN_TIME_S
        while not fleet.sessions.reachable(time.monotonic()):
            await asyncio.sleep(0.01)
        started = time.monotonic()
        took = await asyncio.gather(*(timed(fleet, want(f"t{n}")) for n in range(100)))
        # One finds out, the others go on; one of these may meet a machine that stands still.
        assert sum(seconds > LOOK_UP_S * 0.9 for _, seconds in took) in (1, 2)
    finally:
        redis_server.resume()


async def test_when_redis_is_back_sessions_are_shared_again(
    gateway: Callable[..., StubFleet], redis_server: Any
) -> None:
    fleet = gateway(*JP[:3])
    redis_server.stop()
    placed = (await connect(fleet, want(DIFFER))).node.id
    redis_server.start()
    async with asyncio.timeout(30):
        while await recorded(redis_server, DIFFER) != placed:
            assert (await connect(fleet, want(DIFFER))).node.id == placed
            await asyncio.sleep(0.05)
    assert (await connect(gateway(*JP), want(DIFFER))).node.id == placed


async def test_requests_to_redis_are_bounded(gateway: Callable[..., StubFleet], redis_server: Any) -> None:
    fleet = gateway(*JP)
    for _ in range(3):
        await asyncio.gather(*(connect(fleet, want(f"s{n}")) for n in range(500)))
    client = Registry.open(RedisSettings(url=redis_server.url, timeout=5))
    clients = (await client._redis.info("clients"))["connected_clients"]
    await client.close()
    assert clients <= 8 + 2


async def test_a_store_that_fails_hurts_nobody() -> None:
    class Failing:
        asked = 0

        async def pin_session(self, *_: Any) -> str:
            self.asked += 1
            raise RegistryError("Redis: no")

    fleet, store = StubFleet(*JP), Failing()
    fleet.sessions.store = store
    for n in range(20):
        await connect(fleet, want(f"s{n}"))
    assert store.asked == 1
    await fleet.close()


# a whole gateway


async def usable(count: int, *made: Gateway) -> None:
    """Every one of them can choose so many nodes."""
    for one in made:
        await asyncio.to_thread(wait_for, lambda one=one: one.usable() == count, what=f"{count} nodes usable")


async def test_a_session_through_real_gateways(
    exits: Callable[[str], Exit], gateways: Callable[..., Gateway], registry: Registry
) -> None:
    made = {name: exits(name) for name in ("jp000001", "jp000002", "jp000003")}
    await serve(registry, *made.values())
    first, second = gateways(), gateways()
    await usable(3, first, second)

    async def ask(through: Gateway, flags: str = "") -> tuple[str, str]:
        answer = await asyncio.to_thread(
            curl,
            *("-x", f"http://alice-country-jp-session-s1{flags}:x@127.0.0.1:{through.port}", "-o", "/dev/null"),
            *("-w", "%{http_code} %header{x-exit-node}", "http://origin.test/"),
        )
        status, _, exit_node = answer.stdout.partition(" ")
        return status, exit_node

    _, placed = await ask(first)
    assert placed in made
    for through in (first, second) * 3:
        assert await ask(through) == ("200", placed)
    # Nobody asked for a password, so this is not alice's.
    assert await registry.pin_session("", "s1", placed, 60) == placed
    assert await registry.pin_session("alice", "s1", "jp0000ff", 60) == "jp0000ff"
    made[placed].kill()
    await usable(2, first, second)
    moved = await ask(first)
    assert moved[0] == "200"
    assert moved[1] in made.keys() - {placed}
    assert await ask(second) == moved
    assert (await ask(second, "-strict")) == moved

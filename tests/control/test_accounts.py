"""Sessions of accounts: never more than there are, freed when nobody has them, and a rest after a refusal."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from control.accounts import closed, differences, failed_there, holding, span
from control.exits import REMOVED
from control.model import Container
from control.providers import Choice, Closed, NoSlotError, ProviderError, nobody
from health.config import RedisSettings
from health.model import Node, NodeKind, NodeStatus, Pool
from health.registry import Registry
from health.registry.account_slots import Book, Held
from tests.control.told import Told

REFUSED = '{"event": "ended", "code": 69, "reason": "the VPN server refused the credentials: AUTH_FAILED"}\n'


def node(number: int, status: NodeStatus = NodeStatus.SERVING, **fields: Any) -> Node:
    given = {"account": "acct", "vpn_server": f"jp{number}.x", "kind": NodeKind.VPN} | fields
    return Node(id=f"jp{number:06x}", country="jp", machine="m1", status=status, slot=f"jp-{number}", **given)


def book(*holders: int, account: str = "acct", resting: dict[str, tuple[str, float]] | None = None) -> Book:
    held = {slot: Held(node=f"jp{number:06x}") for slot, number in enumerate(holders)}
    return Book({account: held}, resting or {})


def nodes(*found: Node) -> dict[str, Node]:
    return {one.id: one for one in found}


async def rounds(*controls: Any, count: int = 12, seconds: float = 0.3) -> None:
    """Rounds of control, so many seconds apart by its clock."""
    for _ in range(count):
        controls[0].world.ahead += seconds
        await asyncio.gather(*(control.reconciler.tick() for control in controls))
        await asyncio.gather(*(control.reconciler.settle() for control in controls))


async def holders(control: Any) -> list[str]:
    found = await control.registry.accounts.read(control.placement.limits())
    return sorted(holder.node for slots in found.held.values() for holder in slots.values())


# pure


def test_what_is_there_and_what_is_held_agree() -> None:
    found = differences(book(1, 2), nodes(node(1), node(2)), {"jp000001"})
    assert (found.over, found.missing) == ((), ())


def test_a_session_is_free_once_the_record_has_ended_and_the_container_is_gone() -> None:
    ended = node(1, NodeStatus.FAILED)
    assert differences(book(1), nodes(ended), {"jp000001"}).over == ()
    assert differences(book(1), nodes(ended), set()).over == (("acct", 0, "jp000001"),)
    assert differences(book(1), {}, set()).over == (("acct", 0, "jp000001"),)
    assert differences(book(1), {}, {"jp000001"}).over == ()


def test_who_runs_without_a_session_is_found() -> None:
    there = nodes(node(1), node(2, NodeStatus.STOPPED), node(3, account=""), node(4, kind=NodeKind.DIRECT))
    assert [one.id for one in differences(book(), there, {"jp000002"}).missing] == ["jp000001", "jp000002"]


def test_one_that_holds_two_or_another_accounts_gives_one_back() -> None:
    assert differences(book(1, 1), nodes(node(1)), set()).over == (("acct", 1, "jp000001"),)
    foreign = differences(book(1, account="other"), nodes(node(1)), set())
    assert (foreign.over, [one.id for one in foreign.missing]) == ((("other", 0, "jp000001"),), ["jp000001"])


def test_closed_accounts_say_why() -> None:
    both = book(1, resting={"rests": ("AUTH_FAILED", 598.0)})
    assert closed(both, {"acct": 1, "rests": 5, "free": 5}) == {
        "acct": Closed("account acct: 1 of 1 sessions are in use", full=True),
        "rests": Closed("account rests starts no node for another 9 min 58 s: AUTH_FAILED"),
    }


def test_servers_are_taken_until_their_session_is_free() -> None:
    there = nodes(node(1), node(2, NodeStatus.FAILED), node(3, NodeStatus.FAILED))
    found = {one.id: one.vpn_server for one in holding(book(1, 2, 9), there)}
    assert found == {"jp000001": "jp1.x", "jp000002": "jp2.x", "jp000009": ""}


def test_only_full_accounts_are_worth_waiting_for() -> None:
    full, rests = Closed("one", full=True), Closed("two")
    assert isinstance(nobody([full, full]), NoSlotError)
    assert not isinstance(nobody([full, rests]), NoSlotError)
    assert str(nobody([full, rests])) == "no account takes a node: one; two"


def test_only_what_had_started_speaks_against_its_server() -> None:
    assert failed_there(node(1, NodeStatus.FAILED, started_at=1.0))
    assert not failed_there(node(1, NodeStatus.FAILED))
    assert not failed_there(node(1, NodeStatus.STOPPED, started_at=1.0))
    assert not failed_there(node(1, NodeStatus.FAILED, started_at=1.0, reason=REMOVED))


@pytest.mark.parametrize(("seconds", "text"), [(600, "10 min"), (59.6, "1 min"), (61, "1 min 1 s"), (0.2, "0 s")])
def test_spans_are_told_in_words(seconds: float, text: str) -> None:
    assert span(seconds) == text


# the whole control, on a real Redis


@pytest.mark.usefixtures("everybody_leads")
async def test_two_instances_that_both_believe_to_lead_never_exceed_the_account(
    fleet: Any, new_control: Callable[..., Any], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Registry.open(RedisSettings(url=redis_url, timeout=5.0))
    second = new_control(own)
    fleet.world.provider.slots = 4
    created: list[int] = []
    create = fleet.world.engine.create

    async def counted(*args: Any) -> str:
        made = str(await create(*args))
        created.append(len(fleet.world.engine.found))
        return made

    monkeypatch.setattr(fleet.world.engine, "create", counted)
    for country in ("jp", "us", "gb"):
        await fleet.pool(3, country)
    await rounds(fleet, second, count=25)
    assert fleet.reconciler.leader
    assert second.reconciler.leader
    assert len(fleet.world.engine.running) == 4
    assert max(created) == 4
    assert await holders(fleet) == fleet.world.engine.running
    assert "4 of 4 sessions are in use" in "".join(fleet.reconciler.trouble(c) for c in ("jp", "us", "gb"))
    for victim in fleet.world.engine.running[:2]:
        fleet.world.engine.kill(victim, 67)
    fleet.world.ahead += 1
    await rounds(fleet, second, count=20)
    fleet.world.ahead += 1
    await rounds(fleet, second, count=20)
    assert max(created) == 4
    assert len(fleet.world.engine.running) == 4
    await second.close()
    await own.close()


async def test_many_instances_that_place_at_once_share_what_there_is(
    fleet: Any, new_control: Callable[..., Any]
) -> None:
    fleet.world.provider.slots = 4
    await fleet.registry.begin_epoch()
    controls = [fleet, *(new_control() for _ in range(5))]
    pools = {country: Pool(country=country) for country in ("jp", "us", "gb", "de", "fr", "nl")}

    async def place(control: Any, country: str) -> Node | None:
        try:
            found: Node | None = await control.placement.place(f"{country}-0", pools[country], "")
        except NoSlotError:
            return None
        return found

    placed = await asyncio.gather(*(place(one, country) for one, country in zip(controls, pools, strict=True)))
    assert sorted(node.id for node in placed if node) == await holders(fleet)
    assert len(await fleet.registry.nodes()) == len(await holders(fleet)) == 4


async def test_a_session_comes_back_when_its_container_is_gone(fleet: Any) -> None:
    await fleet.pool(2)
    first, _ = await fleet.serving(count=2)
    await fleet.pool(1)
    await rounds(fleet, count=2)
    await fleet.later(40)
    await rounds(fleet)
    assert await holders(fleet) == fleet.world.engine.running
    assert len(fleet.world.engine.running) == 1
    assert first.id in fleet.world.engine.running


async def test_refused_credentials_let_the_account_rest_and_touch_nobody_else(
    fleet: Any, new_control: Callable[..., Any], told: Told
) -> None:
    await fleet.pool(2)
    victim, other = await fleet.serving(count=2)
    fleet.world.engine.output = REFUSED
    fleet.world.engine.kill(victim.id, 69)
    made = fleet.world.engine.calls.count("create")
    await rounds(fleet, count=20)
    dead = await fleet.registry.node(victim.id)
    assert dead.reason == (
        "the VPN server refused the credentials: AUTH_FAILED; account acct starts no node for 10 min"
    )
    assert await told.reason("account") == dead.reason
    assert await fleet.registry.accounts.penalties() == {}
    assert fleet.world.provider.doubted == ["acct"]
    assert await holders(fleet) == [other.id]
    assert fleet.world.engine.running == [other.id]
    assert fleet.world.engine.calls.count("create") == made
    fleet.world.ahead += 1
    await rounds(fleet, count=3)
    assert "account acct starts no node for another" in fleet.reconciler.trouble("jp")
    assert "AUTH_FAILED" in fleet.reconciler.trouble("jp")
    await fleet.close()
    second = new_control()
    await rounds(second, count=5)
    assert second.world.engine.calls.count("create") == made


async def test_a_node_that_was_requested_before_the_rest_is_not_started(fleet: Any) -> None:
    await fleet.pool(1)
    await rounds(fleet, count=1)
    (requested,) = (await fleet.registry.nodes()).values()
    assert requested.status is NodeStatus.REQUESTED
    await fleet.registry.accounts.rest("acct", "AUTH_FAILED", 600)
    await rounds(fleet)
    ended = await fleet.registry.node(requested.id)
    assert ended.reason == "account acct starts no node: AUTH_FAILED"
    assert fleet.world.engine.calls.count("start") == 0
    assert await holders(fleet) == []
    await fleet.registry.accounts.rest("acct", "AUTH_FAILED", 0.001)
    await fleet.later(61)
    await fleet.serving()


async def test_a_rest_that_the_clock_makes_longer_is_cut(fleet: Any) -> None:
    """Redis's went back by an hour."""
    await fleet.registry.accounts.rest("acct", "AUTH_FAILED", 4200)
    await rounds(fleet, count=2)
    (reason, seconds) = (await fleet.registry.accounts.read({"acct": 1})).resting["acct"]
    assert (reason, 590 < seconds <= 600) == ("AUTH_FAILED", True)


async def test_a_redis_restarted_empty_is_refilled_from_the_nodes(
    new_control: Callable[..., Any], redis_server: Any
) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    control = new_control(registry)
    await control.pool(3)
    before = await control.serving(count=3)
    redis_server.stop()
    redis_server.start()
    await control.serving(count=3)
    await rounds(control, count=2)
    assert await holders(control) == sorted(one.id for one in before) == control.world.engine.running
    control.world.provider.slots = 3
    await control.pool(5)
    await rounds(control, count=6)
    assert len(control.world.engine.running) == 3
    await control.close()
    await registry.close()


async def test_nodes_told_from_their_containers_alone_have_their_sessions_again(
    fleet: Any, new_control: Callable[..., Any], shared_redis: Any, tmp_path: Path
) -> None:
    await fleet.pool(2)
    before = await fleet.serving(count=2)
    await fleet.close()
    assert shared_redis.command("FLUSHALL") == "+OK"
    (tmp_path / "fleet.json").unlink()
    again = new_control()
    after = await again.serving(count=2)
    told = [(one.id, one.provider, one.account, one.vpn_server) for one in before]
    assert [(one.id, one.provider, one.account, one.vpn_server) for one in after] == told
    await rounds(again, count=2)
    assert await holders(again) == sorted(one.id for one in before)


async def test_an_empty_ledger_is_refilled_before_a_new_node_is_placed(fleet: Any, redis_url: str) -> None:
    fleet.world.provider.slots = 2
    await fleet.pool(2)
    await fleet.serving(count=2)
    with Redis.from_url(redis_url) as raw:
        raw.delete("vx:1:slot:acct:0", "vx:1:slot:acct:1")
    assert await holders(fleet) == []
    pool = fleet.fleet.pool_of(await fleet.fleet.snapshot(), "us")
    with pytest.raises(NoSlotError, match="account acct: 2 of 2 sessions are in use"):
        await fleet.placement.place("us-0", pool, "")
    assert await _place(fleet, pool) is None
    assert len(await holders(fleet)) == 2


async def _place(control: Any, pool: Any) -> Any:
    choice = Choice("acct", "us9.x", "", "198.18.10.9", 1194, "udp")
    return await control.placement.claim("us-0", control.placement.node("us-0", pool, choice, pool.protocol), "")


async def test_a_claim_that_came_too_late_gives_its_session_back(fleet: Any) -> None:
    await fleet.pool(1)
    await fleet.serving()
    before = await holders(fleet)
    pool = fleet.fleet.pool_of(await fleet.fleet.snapshot(), "us")
    await fleet.registry.claim_slot("us-0", node(7).model_copy(update={"slot": "us-0", "account": ""}), "")
    assert await _place(fleet, pool) is None
    assert await holders(fleet) == before


async def test_a_server_that_failed_is_avoided_after_its_record_is_forgotten(fleet: Any) -> None:
    await fleet.pool(1)
    (victim,) = await fleet.serving()
    fleet.world.engine.kill(victim.id, 70)
    await fleet.serving()
    await rounds(fleet, count=3)
    assert (await fleet.registry.accounts.penalties()).keys() == {victim.vpn_server}
    await fleet.later(601)
    await rounds(fleet, count=3)
    assert victim.id not in await fleet.registry.nodes()
    await fleet.pool(3)
    await fleet.serving(count=3)
    assert victim.vpn_server not in {one.vpn_server for one in (await fleet.registry.nodes()).values()}


@pytest.mark.parametrize("how", ["removed", "stopped", "killed"])
async def test_a_node_that_an_operator_ends_in_docker_speaks_against_no_server(fleet: Any, how: str) -> None:
    await fleet.pool(1)
    (victim,) = await fleet.serving()
    engine = fleet.world.engine
    if how == "removed":
        await engine.remove(engine.of(victim.id).id)
    else:
        engine.output = '{"event": "ended", "code": 0, "reason": "asked to stop"}\n' if how == "stopped" else ""
        engine.kill(victim.id, 0 if how == "stopped" else 137)
    await fleet.serving()
    await rounds(fleet, count=3)
    assert (await fleet.registry.node(victim.id)).status is NodeStatus.FAILED
    assert how in (await fleet.registry.node(victim.id)).reason
    assert await fleet.registry.accounts.penalties() == {}
    assert victim.id not in await holders(fleet)


async def test_an_account_that_is_not_configured_any_more_starts_nothing(fleet: Any) -> None:
    with pytest.raises(ProviderError, match="account 'gone' is not configured any more"):
        await fleet.placement.may_start(node(1, account="gone"))


async def test_containers_of_nobody_keep_the_session_until_they_are_gone(fleet: Any) -> None:
    await fleet.registry.begin_epoch()
    await fleet.registry.accounts.take("acct", 100, "jp0000aa", "jp1.x")
    orphan = Container("id", "vpnexit-jp0000aa", "jp0000aa", "jp", "jp-0", "running")
    await fleet.placement.settle({}, [orphan])
    await fleet.placement.settle({}, [])
    assert await holders(fleet) == ["jp0000aa"]

"""One user's limits in one worker, between the registry's answers."""

import itertools

import pytest

from gateway.account import Account, credit, limited
from gateway.wire.base import WireError
from health.limits import LEASE_S, Ask, Lease
from health.model import User
from health.reasons import Reason


def account(**limits: int) -> Account:
    tokens = map(str, itertools.count())
    return Account(User(name="alice", password_hash="x", **limits), "202611", 0.0, lambda: next(tokens))


def answer(account: Account, now: float = 0.0, **fields: int | str) -> Ask:
    ask = account.ask("w1")
    given: dict[str, int | str] = {"generation": "g1", "workers": 1, "connections": 0, "vacant": 0, "rate": 0}
    lease = Lease(**{"bytes": 0, "total": ask.unsettled} | given | fields)  # type: ignore[arg-type]
    account.answered(ask, lease, now)
    return ask


def admitted(account: Account, tries: int = 1000) -> int:
    done = 0
    while True:
        if done == tries:
            return done
        try:
            account.admit(0.0)
        except WireError as caught:
            error = caught
            break
        done += 1
    assert error.reason is Reason.CONNECTION_LIMIT
    assert str(account.user.max_connections) in error.detail
    return done


def test_who_is_limited() -> None:
    assert not limited(account().user)
    for name in ("max_connections", "bytes_per_second", "monthly_bytes"):
        assert limited(account(**{name: 5000}).user)


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (5, 5), (8, 8), (9, 8), (32, 8), (33, 9), (100, 25)])
def test_the_credit_is_a_quarter_and_whole_for_small_limits(limit: int, expected: int) -> None:
    assert credit(limit) == expected
    assert admitted(account(max_connections=limit)) == expected


def test_the_first_connection_neither_waits_nor_is_refused_and_asks() -> None:
    assert account(max_connections=1).admit(0.0)
    assert account(monthly_bytes=1).admit(0.0)


def test_a_lease_and_credit_while_others_leave_room() -> None:
    one = account(max_connections=100)
    answer(one, connections=25, vacant=100)
    assert admitted(one) == 25
    answer(one, connections=44, vacant=75)
    assert admitted(one) == 25
    answer(one, connections=51, vacant=3)
    assert admitted(one) == 3
    answer(one, connections=53, vacant=-2)
    assert admitted(one) == 0
    one.release(0.0)
    assert admitted(one) == 1


def test_without_redis_only_the_lease_counts() -> None:
    one = account(max_connections=100)
    answer(one, connections=30, vacant=100)
    one.failed(1.0)
    assert admitted(one) == 30
    never = account(max_connections=100)
    never.failed(1.0)
    assert admitted(never) == 25


def test_it_asks_when_the_lease_of_connections_is_used_up() -> None:
    one = account(max_connections=10)
    answer(one, connections=2, vacant=10)
    assert not one.admit(0.0)
    assert one.admit(0.0)
    assert one.tight


def test_the_month_is_used_up_when_the_lease_is_and_no_answer_comes() -> None:
    one = account(monthly_bytes=6400)
    one.admit(0.0)
    one.volume.used += 99
    one.failed(1.0)
    assert not one.volume.exhausted, "a 64th without any answer"
    one.volume.used += 1
    one.failed(2.0)
    assert one.volume.exhausted
    answer(one, bytes=500)
    assert not one.volume.exhausted
    one.volume.used += 600
    assert not one.volume.exhausted, "the next answer may bring more"
    answer(one, bytes=0, total=6399)
    assert not one.volume.exhausted, "what others have leased is not used yet"
    one.failed(2.5)
    assert one.volume.exhausted
    answer(one, bytes=0, total=6400)
    assert one.volume.exhausted
    with pytest.raises(WireError) as caught:
        one.admit(3.0)
    assert caught.value.reason is Reason.QUOTA_USED


def test_what_is_told_is_told_once_per_generation() -> None:
    one = account(monthly_bytes=10**6)
    one.volume.used = 100
    first = answer(one, total=100, bytes=1)
    assert (first.generation, first.counted, first.unsettled, first.seen) == ("", 100, 100, 0)
    one.volume.used = 150
    second = answer(one, total=400, bytes=1)
    assert (second.generation, second.counted, second.unsettled, second.seen) == ("g1", 150, 50, 100)
    one.volume.used = 170
    third = answer(one, total=420, bytes=1, generation="g2")
    assert (third.generation, third.counted, third.unsettled, third.seen) == ("g1", 170, 20, 400)
    one.volume.used = 175
    fourth = one.ask("w1")
    assert (fourth.generation, fourth.counted, fourth.unsettled, fourth.seen) == ("g2", 25, 5, 420)


def test_a_new_month_begins_with_what_was_not_settled() -> None:
    one = account(monthly_bytes=1000)
    one.volume.used = 1000
    answer(one, total=1000)
    assert one.volume.exhausted
    one.volume.used += 7
    one.roll("202612")
    assert not one.volume.exhausted
    ask = one.ask("w1")
    assert (ask.month, ask.generation, ask.counted, ask.unsettled, ask.seen) == ("202612", "", 7, 7, 0)
    assert ask.member == "1"


def test_shares_of_the_rate() -> None:
    one = account(bytes_per_second=16_000)
    assert one.up is not None
    assert one.down is not None
    assert one.up.rate == one.down.rate == 4000
    assert one.ask("w1").demand == 16_000, "unknown yet"
    answer(one, rate=9000, workers=4)
    assert one.up.rate == 9000
    answer(one, rate=10, workers=4)
    assert one.down.rate == 1000, "a sixteenth at least"
    answer(one, now=100.0, rate=9000, workers=4)
    one.failed(100 + LEASE_S)
    assert one.up.rate == 9000
    one.failed(100.1 + LEASE_S)
    assert one.up.rate == 4000, "after that a fair part"


def test_demand_is_what_passed_and_all_there_is_where_it_was_not_enough() -> None:
    one = account(bytes_per_second=16_000)
    answer(one, rate=16_000)
    assert one.down is not None
    one.measure(1.0)
    assert one.ask("w1").demand == 0
    one.down.take(1000, 1.0)
    one.measure(2.0)
    assert one.ask("w1").demand == 1250
    one.down.take(4000, 2.0)
    one.down.take(4000, 2.0)
    assert one.ask("w1").demand == 16_000
    one.measure(3.0)
    assert one.ask("w1").demand == 16_000
    one.measure(4.0)
    assert one.ask("w1").demand == 0


def test_changed_limits_are_taken_over() -> None:
    one = account(max_connections=1)
    answer(one, connections=1, vacant=1)
    one.change(account(bytes_per_second=16_000).user, 1.0)
    assert admitted(one, 50) == 50
    assert one.up is not None
    one.change(account(max_connections=60).user, 2.0)
    assert one.up is None
    answer(one, connections=52, vacant=10)
    assert admitted(one) == 10


def test_a_lease_given_back_leaves_a_little_for_the_next_time() -> None:
    one = account(monthly_bytes=6400, max_connections=4)
    one.admit(0.0)
    one.release(0.0)
    for total, exhausted in ((100, False), (6390, False), (6400, True)):
        ask = one.ask("w1", leave=True)
        one.answered(ask, Lease(0, 4, 0, 1, 0, total, "g1"), 1.0)
        assert one.left
        assert one.volume.exhausted is exhausted

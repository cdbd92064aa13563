"""How long failed log-ins make an address wait."""

import json
from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import guesses
from gateway.guesses import Guesses
from health import failures

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")


def test_five_failures_are_free_then_each_doubles_the_wait_up_to_a_minute() -> None:
    table, now, waits = Guesses(), 1000.0, []
    for _ in range(14):
        waits.append(table.wait(HERE, now))
        now += waits[-1]
        assert table.wait(HERE, now) == 0
        table.begin(HERE, now)
    waits.append(table.wait(HERE, now))
    assert waits[:6] == [0.0] * 6
    assert waits[6] == guesses.FIRST_WAIT_S
    assert all(before < after <= guesses.MAX_WAIT_S for before, after in pairwise(waits[5:13]))
    assert 50 < waits[-1] <= guesses.MAX_WAIT_S
    assert table.wait(THERE, now) == 0


def test_time_forgives() -> None:
    table = Guesses()
    for _ in range(20):
        table.begin(HERE, 0.0)
    assert table.wait(HERE, 0.0) == guesses.MAX_WAIT_S
    table.begin(HERE, 12 * guesses.FORGIVEN_S)
    assert table.wait(HERE, 12 * guesses.FORGIVEN_S) == 0


def test_a_success_takes_back_its_own_attempt_and_no_other() -> None:
    table = Guesses()
    for _ in range(6):
        table.begin(HERE, 0.0)
    table.begin(HERE, 1.0)
    table.succeeded(HERE)
    assert table.wait(HERE, 1.0) > 0
    fresh = Guesses()
    for _ in range(50):
        fresh.begin(HERE, 0.0)
        fresh.succeeded(HERE)
    assert fresh.wait(HERE, 0.0) == 0
    fresh.succeeded(THERE)


def test_an_ipv6_network_is_one_address_and_a_mapped_address_its_ipv4() -> None:
    table = Guesses()
    for i in range(10):
        table.begin(ip_address(f"2001:db8::{i:x}"), 0.0)
        table.begin(ip_address("::ffff:192.0.2.1"), 0.0)
    assert table.wait(ip_address("2001:db8::ffff:1"), 0.0) > 0
    assert table.wait(ip_address("2001:db8:0:1::1"), 0.0) == 0
    assert table.wait(HERE, 0.0) > 0


def test_the_table_is_bounded() -> None:
    table = Guesses()
    first = int(ip_address("10.0.0.0"))
    for i in range(failures.ADDRESSES_KEPT + 100):
        table.begin(ip_address(first + i), 0.0)
    assert len(table) == failures.ADDRESSES_KEPT


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=60))
def test_the_wait_is_bounded_and_never_more_guesses_pass_than_it_allows(steps: list[tuple[float, bool]]) -> None:
    table, now, tried = Guesses(), 0.0, 0
    for passed, right in steps:
        now += passed
        wait = table.wait(HERE, now)
        assert 0 <= wait <= guesses.MAX_WAIT_S
        if not wait:
            table.begin(HERE, now)
            if right:
                table.succeeded(HERE)
            else:
                tried += 1
    # Free ones, one for each wait that grows, then no faster than the longest wait or the forgiving allows.
    assert tried <= guesses.FREE + 8 + 2 * now / min(guesses.FORGIVEN_S, guesses.MAX_WAIT_S)


def test_failures_elsewhere_count() -> None:
    table, now = Guesses(), 10.0
    told = [table.begin(HERE, now) for _ in range(guesses.FREE)]
    assert told == [False] * guesses.FREE  # the free ones are told when they have failed
    assert table.wait(HERE, now) == 0
    table.hear((guesses.block_of(HERE), 1), now)
    assert table.wait(HERE, now) == guesses.FIRST_WAIT_S
    table.hear((guesses.block_of(HERE), -1), now)
    assert table.wait(HERE, now) == 0
    table.hear((guesses.block_of(THERE), -1), now)
    assert table.wait(THERE, now) == 0
    assert table.begin(HERE, now)


def test_a_table_that_starts_later_makes_the_same_wait() -> None:
    table, later = Guesses(), Guesses()
    for number in range(20):
        table.begin(HERE, float(number))
    table.begin(THERE, 0.0)
    for now in (20.0, 70.0):
        later = Guesses()
        later.load(json.loads(json.dumps(table.dump(now))), now + 1000)
        assert abs(later.wait(HERE, now + 1000) - table.wait(HERE, now)) < 0.01
    assert len(later) == 1  # the other one is forgiven
    assert table.dump(1e6) == []


def test_what_is_kept_of_a_dump_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "ADDRESSES_KEPT", 10)
    table = Guesses()
    table.load([(f"{number:08x}", 1e9, 0.0) for number in range(50)], 0.0)
    assert len(table) == 10
    assert table.wait(ip_address(49), 0.0) == guesses.MAX_WAIT_S
    for number in range(50):
        table.hear((number.to_bytes(4), 1), 0.0)
    assert len(table) == 10


@given(st.sampled_from([4, 8]).flatmap(lambda size: st.binary(min_size=size, max_size=size)), st.sampled_from([1, -1]))
def test_a_word_is_read_as_it_was_written(block: bytes, change: int) -> None:
    assert guesses.read_word(json.loads(json.dumps(guesses.write_word((block, change))))) == (block, change)


@pytest.mark.parametrize(
    "said", [None, 1, [], {}, "c0000201", ["c0000201"], ["c0000201", 2], ["c000020", 1], ["zzzzzzzz", 1], [1, 1]]
)
def test_any_other_word_is_refused(said: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        guesses.read_word(said)

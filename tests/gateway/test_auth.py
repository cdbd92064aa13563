"""Password checks."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from argon2 import PasswordHasher

from gateway import auth
from gateway.guesses import FREE, Word
from gateway.wire.base import WireError
from health.model import User
from health.reasons import Reason

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")


def user(password: str, name: str = "alice") -> User:
    hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
    return User(name=name, password_hash=hasher.hash(password))


async def test_right_wrong_and_unknown() -> None:
    checker, users = auth.Authenticator(), {"alice": user("right")}
    assert (await checker.check(users, "alice", "right", HERE)).name == "alice"
    for name, password in (
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", "righ"),
        ("alice", "right\0"),
        ("bob", "right"),
    ):
        with pytest.raises(WireError) as refused:
            await checker.check(users, name, password, HERE)
        assert refused.value.reason is Reason.AUTH_FAILED
    checker.close()


async def test_the_hash_is_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checker, users, paid = auth.Authenticator(), {"alice": user("right")}, 0
    verify = checker._verify

    def counted(stored: str, password: str) -> bool:
        nonlocal paid
        paid += 1
        return verify(stored, password)

    monkeypatch.setattr(checker, "_verify", counted)
    await asyncio.gather(*(checker.check(users, "alice", "right", HERE) for _ in range(100)))
    await checker.check(users, "alice", "right", HERE)
    assert paid == 1
    users["alice"] = user("other")
    with pytest.raises(WireError):
        await checker.check(users, "alice", "right", HERE)
    checker.close()


async def test_an_unknown_user_costs_a_hash_too(monkeypatch: pytest.MonkeyPatch) -> None:
    checker, paid = auth.Authenticator(), 0

    def counted(stored: str, password: str) -> bool:
        nonlocal paid
        paid += 1
        return False

    monkeypatch.setattr(checker, "_verify", counted)
    with pytest.raises(WireError):
        await checker.check({}, "nobody", "x", HERE)
    assert paid == 1
    checker.close()


async def test_guesses_beyond_the_queue_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = auth.Authenticator()
    addresses = [ip_address(f"198.51.100.{i // FREE}") for i in range(auth.QUEUE + 5)]
    guesses = [checker.check({}, "nobody", str(i), source) for i, source in enumerate(addresses)]
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    reasons = [answer.reason for answer in answers if isinstance(answer, WireError)]
    assert reasons.count(Reason.AUTH_BUSY) == 5
    assert {answer.retry_after for answer in answers if getattr(answer, "reason", "") is Reason.AUTH_BUSY} == {1}
    assert reasons.count(Reason.AUTH_FAILED) == auth.QUEUE
    checker.close()


async def test_failures_slow_their_address_and_nobody_verified() -> None:
    now = 1000.0
    checker, users = auth.Authenticator(lambda: now), {"alice": user("right"), "bob": user("other", "bob")}
    await checker.check(users, "alice", "right", THERE)
    # At once: what runs counts as failed, so the sixth and seventh guess find the wait.
    tries = [checker.check(users, "alice", f"wrong{i}", HERE) for i in range(FREE + 2)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    reasons = [answer.reason for answer in answers if isinstance(answer, WireError)]
    assert reasons.count(Reason.AUTH_FAILED) == FREE + 1
    assert reasons.count(Reason.AUTH_SLOWED) == 1
    for name, password in (("alice", "right"), ("bob", "other")):  # the right one, too: or guesses would be answered
        with pytest.raises(WireError, match="try again in 1 s") as slowed:
            await checker.check(users, name, password, HERE)
        assert slowed.value.reason is Reason.AUTH_SLOWED
        assert slowed.value.retry_after == 1
    assert (await checker.check(users, "alice", "right", THERE)).name == "alice"
    assert (await checker.check(users, "bob", "other", THERE)).name == "bob"
    now += 1.0
    users["carol"] = user("third", "carol")
    assert (await checker.check(users, "carol", "third", HERE)).name == "carol"
    checker.close()


async def test_who_logged_in_there_before_is_served_beside_a_guesser() -> None:
    checker, users = auth.Authenticator(lambda: 0.0), {"alice": user("right")}
    await checker.check(users, "alice", "right", HERE)
    for i in range(FREE + 2):
        with pytest.raises(WireError):
            await checker.check(users, "alice", f"wrong{i}", HERE)
    assert (await checker.check(users, "alice", "right", HERE)).name == "alice"
    assert not checker.slowed(HERE, "alice")
    assert checker.slowed(HERE, "bob")
    checker.close()


async def test_many_log_ins_that_succeed_are_not_slowed() -> None:
    checker, users = auth.Authenticator(lambda: 0.0), {}
    for i in range(3 * FREE):
        name = f"user{i}"
        users[name] = user("right", name)
        assert (await checker.check(users, name, "right", HERE)).name == name
    checker.close()


def together(count: int) -> list[auth.Authenticator]:
    """Workers that hear of each other at once."""
    checkers: list[auth.Authenticator] = []

    def telling(number: int) -> Callable[[Word], None]:
        return lambda word: [other.hear(word) for at, other in enumerate(checkers) if at != number] and None

    checkers += [auth.Authenticator(lambda: 0.0, telling(number)) for number in range(count)]
    return checkers


async def test_workers_count_failures_together() -> None:
    checkers = together(3)
    reasons = []
    for number in range(FREE + 4):
        with pytest.raises(WireError) as refused:
            await checkers[number % 3].check({}, "nobody", f"wrong{number}", HERE)
        reasons.append(refused.value.reason)
    assert reasons == [Reason.AUTH_FAILED] * (FREE + 1) + [Reason.AUTH_SLOWED] * 3
    for checker in checkers:
        checker.close()


async def test_the_same_right_password_at_many_workers_at_once_is_no_guess() -> None:
    checkers, users = together(2 * FREE), {"alice": user("right")}
    answers = await asyncio.gather(*(checker.check(users, "alice", "right", HERE) for checker in checkers))
    assert [answer.name for answer in answers] == ["alice"] * 2 * FREE
    for checker in checkers:
        assert not checker._guesses
        checker.close()


async def test_a_success_after_failures_is_taken_back_everywhere() -> None:
    checkers, users = together(2), {"alice": user("right")}
    for number in range(FREE):
        with pytest.raises(WireError):
            await checkers[0].check(users, "alice", f"wrong{number}", HERE)
    waits = []
    told = checkers[1].hear
    checkers[1].hear = lambda word: (told(word), waits.append(checkers[1]._guesses.wait(HERE, 0.0)))  # type: ignore
    await checkers[0].check(users, "alice", "right", HERE)
    assert waits == [1.0, 0.0]
    for checker in checkers:
        checker.close()


async def test_a_worker_that_starts_later_knows_of_failures() -> None:
    checker = auth.Authenticator(lambda: 0.0, failures=[("c0000201", FREE + 1.0, 0.5)])
    with pytest.raises(WireError) as slowed:
        await checker.check({}, "nobody", "x", HERE)
    assert slowed.value.reason is Reason.AUTH_SLOWED
    checker.close()

"""Password checks."""

import asyncio

import pytest
from argon2 import PasswordHasher

from gateway import auth
from gateway.wire.base import WireError
from health.model import User
from health.reasons import Reason


def user(password: str) -> User:
    hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
    return User(name="alice", password_hash=hasher.hash(password))


async def test_right_wrong_and_unknown() -> None:
    checker, users = auth.Authenticator(), {"alice": user("right")}
    assert (await checker.check(users, "alice", "right")).name == "alice"
    for name, password in (
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", "righ"),
        ("alice", "right\0"),
        ("bob", "right"),
    ):
        with pytest.raises(WireError) as refused:
            await checker.check(users, name, password)
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
    await asyncio.gather(*(checker.check(users, "alice", "right") for _ in range(100)))
    await checker.check(users, "alice", "right")
    assert paid == 1
    users["alice"] = user("other")
    with pytest.raises(WireError):
        await checker.check(users, "alice", "right")
    checker.close()


async def test_an_unknown_user_costs_a_hash_too(monkeypatch: pytest.MonkeyPatch) -> None:
    checker, paid = auth.Authenticator(), 0

    def counted(stored: str, password: str) -> bool:
        nonlocal paid
        paid += 1
        return False

    monkeypatch.setattr(checker, "_verify", counted)
    with pytest.raises(WireError):
        await checker.check({}, "nobody", "x")
    assert paid == 1
    checker.close()


async def test_guesses_beyond_the_queue_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = auth.Authenticator()
    guesses = [checker.check({}, "nobody", str(i)) for i in range(auth.QUEUE + 5)]
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    reasons = [answer.reason for answer in answers if isinstance(answer, WireError)]
    assert reasons.count(Reason.AUTH_BUSY) == 5
    assert reasons.count(Reason.AUTH_FAILED) == auth.QUEUE
    checker.close()

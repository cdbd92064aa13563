"""Each beginning and end once, with Redis and without."""

from pathlib import Path

from control.troubles import Troubles
from health.config import RedisSettings
from health.registry import Registry


class Counting(Registry):
    """A registry that writes down what is published."""

    told: list[tuple[str, str, str]]

    async def publish(self, kind: str, subject: str, **details: str) -> None:
        self.told = [*getattr(self, "told", []), (kind, subject, details["reason"])]
        await super().publish(kind, subject, **details)


async def test_told_when_it_begins_changes_and_ends(redis_url: str) -> None:
    registry = Counting.open(RedisSettings(url=redis_url, timeout=5.0))
    troubles = Troubles(registry)
    for reason in ("gone", "gone", "slow", "", ""):
        await troubles.note("engine", reason)
    assert registry.told == [
        ("trouble", "engine", "gone"),
        ("trouble", "engine", "slow"),
        ("recovered", "engine", "slow"),
    ]
    assert troubles.of("engine") == ""
    await registry.close()


async def test_one_that_counts_down_is_told_once_and_known_as_it_is_now(redis_url: str) -> None:
    registry = Counting.open(RedisSettings(url=redis_url, timeout=5.0))
    troubles = Troubles(registry)
    for left in ("10 min", "9 min 59 s", "1 s"):
        await troubles.note("jp", f"account a starts no node for another {left}: AUTH_FAILED")
    assert [kind for kind, *_ in registry.told] == ["trouble"]
    assert troubles.of("jp") == "account a starts no node for another 1 s: AUTH_FAILED"
    await troubles.note("jp", "account b starts no node for another 1 s: AUTH_FAILED")
    assert len(registry.told) == 2
    await registry.close()


async def test_without_redis_it_is_remembered_all_the_same(tmp_path: Path) -> None:
    registry = Registry.open(RedisSettings(url=f"unix://{tmp_path}/none"))
    troubles = Troubles(registry)
    await troubles.note("redis", "does not answer")
    assert troubles.of("redis") == "does not answer"
    await registry.close()


async def test_every_instance_can_say_what_the_leader_knows(redis_url: str) -> None:
    registry = Registry.open(RedisSettings(url=redis_url, timeout=5.0))
    leader, other = Troubles(registry), Troubles(registry)
    await leader.note("jp", "every account is in full use")
    await leader.share(0.0)
    await other.follow()
    assert other.of("jp") == "every account is in full use"
    await leader.note("jp", "")
    await leader.share(0.1)
    await other.follow()
    assert other.of("jp") == ""
    await leader.note("us", "no servers")
    await leader.share(0.2)
    await other.follow()
    await other.share(0.3)  # it leads now, and knows nothing of the kind
    assert other.of("us") == ""
    assert await registry.troubles() == {}
    await registry.close()


async def test_what_was_found_while_leading_ends_with_the_lead(registry: Registry) -> None:
    troubles = Troubles(registry)
    for subject in ("jp", "engine", "copy"):
        await troubles.note(subject, "something is wrong")
    await troubles.follow()
    assert [troubles.of(subject) for subject in ("jp", "engine", "copy")] == ["", "", "something is wrong"]

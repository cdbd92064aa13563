"""Who holds a lease, who takes it over, and what a process knows of the one that has it."""

import subprocess
import sys
from typing import Any

import pytest

from health import holder
from health.lease import Lease
from health.registry import PREFIX, Registry, RegistryError

ROLE = "collecting:m1"
KEY = PREFIX + "lease:" + ROLE
NAME = [sys.executable, "-c", "from health import holder; print(holder.name())"]


def lease(registry: Registry) -> Lease:
    return Lease(registry, ROLE, 30)


async def test_one_holds_and_the_other_knows_that_it_is_beside(registry: Registry) -> None:
    one, other = lease(registry), lease(registry)
    assert (one.held, one.beside) == (None, False)
    assert await one.hold()
    assert not await other.hold()
    assert await one.hold(), "renewed"
    assert (one.held, one.beside, other.held, other.beside) == (True, False, False, True)


async def test_given_back_it_is_taken_at_once(registry: Registry) -> None:
    one, other = lease(registry), lease(registry)
    await one.hold()
    await other.hold()
    await other.give_back()
    assert not await other.hold(), "it was not its own to give"
    await one.give_back()
    assert await other.hold()
    assert (other.held, other.beside) == (True, False)


async def test_a_dead_ones_is_taken_at_once(registry: Registry, raw: Any) -> None:
    dead = subprocess.run(NAME, capture_output=True, text=True, check=True).stdout.strip()
    raw.set(KEY, dead, ex=30)
    one = lease(registry)
    assert await one.hold()
    assert raw.get(KEY) != dead
    assert (one.held, one.beside) == (True, False)


async def test_one_of_another_machine_is_waited_for_and_not_beside(registry: Registry, raw: Any) -> None:
    raw.set(KEY, f"other-{holder.name()}", ex=30)
    one = lease(registry)
    assert not await one.hold()
    assert (one.held, one.beside) == (False, False)


async def test_what_is_known_stays_while_redis_is_gone(own_registry: Registry, redis_server: Any) -> None:
    one, other = lease(own_registry), lease(own_registry)
    await one.hold()
    await other.hold()
    redis_server.stop()
    for each in (one, other):
        with pytest.raises(RegistryError):
            await each.hold()
    assert (one.held, one.beside, other.held, other.beside) == (True, False, False, True)

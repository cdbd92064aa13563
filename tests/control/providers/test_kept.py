"""A list that is kept: old before none, whole before half."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.providers import ProviderError
from control.providers.kept import BELIEVED_S, FRESH_S, RETRY_S, Kept, plausible


class Source:
    def __init__(self) -> None:
        self.now = 0.0
        self.told: tuple[str, ...] | None = tuple("abcdefghij")
        self.asked = 0
        self.stored: tuple[float, tuple[str, ...]] = (0.0, ())

    async def ask(self) -> tuple[str, ...]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.told is None:
            raise ProviderError("the API is away")
        return self.told

    def save(self, at: float, values: tuple[str, ...]) -> None:
        self.stored = (at, values)

    def kept(self) -> Kept[str]:
        return Kept(
            "list", self.ask, str, lambda: self.stored, self.save, lambda: self.now, lambda: 1_000_000 + self.now
        )


@pytest.fixture
def source() -> Source:
    return Source()


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_it_is_asked_once_while_it_is_fresh(source: Source) -> None:
    kept = source.kept()
    answers = await asyncio.gather(*(kept.get() for _ in range(5)))
    assert source.asked == 1
    assert all(sorted(answer) == list("abcdefghij") for answer in answers)
    assert source.stored == (1_000_000.0, source.told)
    await kept.close()


async def test_an_old_one_is_used_at_once_and_renewed_behind(source: Source) -> None:
    kept = source.kept()
    await kept.get()
    source.told, source.now = tuple("abcdefghijk"), FRESH_S
    assert "k" not in await kept.get()
    await until(lambda: "k" in kept.known)
    assert source.asked == 2
    await kept.close()


async def test_without_an_answer_it_stays_and_is_not_asked_for_a_while(source: Source) -> None:
    kept = source.kept()
    await kept.get()
    source.told, source.now = None, FRESH_S
    for _ in range(3):
        assert len(await kept.get()) == 10
        await until(lambda: source.asked == 2)
    source.now += RETRY_S
    await kept.get()
    await until(lambda: source.asked == 3)
    await kept.close()


async def test_one_that_never_was_is_told(source: Source) -> None:
    source.told = None
    kept = source.kept()
    with pytest.raises(ProviderError, match="the API is away"):
        await kept.get()
    source.told = ()
    with pytest.raises(ProviderError, match="the provider's list is empty"):
        await kept.get()
    source.told = ("a",)
    assert list(await kept.get()) == ["a"]
    await kept.close()


async def test_half_an_answer_is_not_believed_for_a_day(source: Source) -> None:
    kept = source.kept()
    await kept.get()
    source.told, source.now = ("a",), FRESH_S
    await kept.get()
    await until(lambda: source.asked == 2)
    assert len(await kept.get()) == 10
    source.now = BELIEVED_S
    await kept.get()
    await until(lambda: len(kept.known) == 1)
    await kept.close()


async def test_it_survives_a_restart_and_a_smaller_answer_after_it(source: Source) -> None:
    source.stored, source.told = (1_000_000.0 - 60, tuple("abcdefghij")), ("a",)
    kept = source.kept()
    kept.behind()
    await until(lambda: source.asked == 1)
    assert len(await kept.get()) == 10
    await kept.close()


async def test_closing_ends_what_goes_on_behind(source: Source) -> None:
    kept = source.kept()
    kept.behind()
    await kept.close()
    assert kept.known == {}
    await kept.close()


@given(st.sets(st.text(max_size=3)), st.sets(st.text(max_size=3)))
def test_what_lost_more_than_half_is_not_plausible(now: set[str], before: set[str]) -> None:
    assert plausible(now, before) == (2 * len(before - now) <= len(before))
    assert plausible(now | before, before)

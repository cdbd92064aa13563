"""Sockets fetched ahead of demand. They are real ones, so that a leak shows."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from gateway import stock as module
from gateway.errors import LinkError
from gateway.stock import LARGEST, SMALLEST, Budget, Stock


class Agent:
    """Gives sockets. `trouble` is raised instead; `open` lets it answer; `asked` is how many each time."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.trouble = ""
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self, count: int) -> list[socket.SocketType]:
        self.asked.append(count)
        await self.open.wait()
        if self.trouble:
            raise LinkError(self.trouble)
        return [socket.SocketType(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(count)]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


Make = Callable[..., Stock]


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
async def make(agent: Agent) -> AsyncIterator[Make]:
    """Stocks; at the end no descriptor is left open, and the budget is whole."""
    before, made, budgets = descriptors(), list[Stock](), list[tuple[Budget, int]]()

    def build(left: int = 1000, budget: Budget | None = None) -> Stock:
        if budget is None:
            budget = Budget(left)
        if all(budget is not known for known, _ in budgets):
            budgets.append((budget, budget.left))
        made.append(Stock(agent.fetch, budget))
        return made[-1]

    yield build
    for stock in made:
        stock.close()
    await asyncio.sleep(0)
    assert descriptors() == before
    assert [budget.left for budget, _ in budgets] == [left for _, left in budgets]


async def use(stock: Stock, times: int = 1) -> None:
    """As a dial does: what is at hand, or whatever must be waited for."""
    for _ in range(times):
        (stock.pop() or await stock.get()).close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def test_nothing_is_kept_before_anybody_asks(make: Make, agent: Agent) -> None:
    assert len(make()) == 0
    assert agent.asked == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the machine stands still, it is used up quickly."""
    monkeypatch.setattr(module, "QUICKLY_S", 60.0)


@pytest.mark.usefixtures("quick")
async def test_it_grows_while_it_is_used_up_quickly(make: Make, agent: Agent) -> None:
    stock = make()
    await use(stock)
    assert agent.asked == [SMALLEST]
    await use(stock, 12 * LARGEST)
    assert max(agent.asked) > LARGEST // 2
    assert len(stock) <= LARGEST
    assert sum(agent.asked) < 13 * LARGEST + 1
    assert len(agent.asked) < 24, "most of the demand was met by large fetches"


async def test_slow_demand_keeps_it_small(make: Make, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUICKLY_S", 0.0)
    stock = make()
    await use(stock, 100)
    assert max(agent.asked) == SMALLEST


@pytest.mark.usefixtures("quick")
async def test_it_is_refilled_before_it_is_empty(make: Make, agent: Agent) -> None:
    stock = make()
    await use(stock, 100)
    await until(lambda: stock._refill is None)
    agent.open.clear()
    asked = len(agent.asked)
    while len(agent.asked) == asked:
        await use(stock)
        await asyncio.sleep(0)
    left = len(stock)
    assert left > 1, "some are at hand while more are on their way"
    agent.open.set()
    await until(lambda: len(stock) > left)


@pytest.mark.usefixtures("quick")
async def test_it_shrinks_to_nothing_when_nobody_asks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    shrink = module.Stock._shrink

    def seen(stock: Stock) -> None:
        sizes.append(len(stock))
        shrink(stock)

    monkeypatch.setattr(module.Stock, "_shrink", seen)
    monkeypatch.setattr(module, "QUIET_S", 0.02)
    stock = make()
    await use(stock, 200)
    await until(lambda: stock._refill is None and not len(stock))
    assert len({*sizes} - {0}) > 1, "by halves, not at once"
    await use(stock)
    await until(lambda: len(stock))


async def test_all_stocks_share_one_budget(make: Make, agent: Agent) -> None:
    budget = Budget(6)
    one, two, three = (make(budget=budget) for _ in range(3))
    await use(one)
    await use(two)
    assert len(one) + len(two) <= 6
    await use(three)  # nothing left to keep: it is fetched for this use alone
    await until(lambda: one._refill is None and two._refill is None)
    assert len(one) + len(two) + len(three) + budget.left == 6
    assert 1 in agent.asked
    await use(three, 20)
    assert budget.left >= 0


async def test_the_tunnels_end_takes_the_stock_along(make: Make, agent: Agent) -> None:
    stock, before = make(), descriptors()
    await use(stock)
    await until(lambda: len(stock) == SMALLEST - 1)
    assert descriptors() == before + len(stock)
    stock.drop()
    assert (len(stock), descriptors()) == (0, before)
    await use(stock)
    assert len(agent.asked) >= 2


async def test_an_error_reaches_everybody_who_waits_and_is_not_kept(make: Make, agent: Agent) -> None:
    stock = make()
    agent.trouble = "the agent is gone"
    agent.open.clear()
    waiting = [asyncio.create_task(stock.get()) for _ in range(10)]
    await asyncio.sleep(0.01)
    agent.open.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(error) for error in outcomes] == ["the agent is gone"] * 10
    assert len(agent.asked) <= 2, "nobody asks once more by himself"
    agent.trouble = ""
    await use(stock)


async def test_more_who_wait_than_a_fetch_brings(make: Make, agent: Agent) -> None:
    stock = make()
    agent.open.clear()
    waiting = [asyncio.create_task(stock.get()) for _ in range(SMALLEST * 3)]
    await asyncio.sleep(0.01)
    agent.open.set()
    taken = await asyncio.wait_for(asyncio.gather(*waiting), 20)
    assert len({sock.fileno() for sock in taken}) == SMALLEST * 3
    for sock in taken:
        sock.close()


async def test_who_waits_when_it_is_closed_hears_of_it(make: Make, agent: Agent) -> None:
    """Else a dial would wait for its deadline instead of trying another node."""
    stock = make()
    agent.open.clear()
    waiting = asyncio.create_task(stock.get())
    await asyncio.sleep(0.01)
    agent.trouble = "closed"
    stock.close()
    agent.open.set()
    with pytest.raises(LinkError):
        await asyncio.wait_for(waiting, 20)


async def test_a_waiter_that_leaves_takes_nothing_along(make: Make, agent: Agent) -> None:
    stock = make()
    agent.open.clear()
    waiting = asyncio.create_task(stock.get())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    agent.open.set()
    await until(lambda: len(stock) == SMALLEST)

"""Sockets of one node, fetched ahead of demand, so that a dial need not ask the agent.

The size follows the demand, 4 to 128: it doubles while the stock is used up within a quarter of a second, and halves
with every second in which nobody takes one, down to nothing. What a fetch costs beside its sockets is shared by up to
96 connections so. All stocks of a worker share a budget of descriptors.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

from gateway.errors import LinkError

SMALLEST, LARGEST = 4, 128
QUICKLY_S = 0.25
QUIET_S = 1.0


class Budget:
    """How many sockets all stocks of a worker may hold together."""

    def __init__(self, left: int) -> None:
        self.left = left


class Stock:
    """Up to 128 unconnected sockets. `fetch(n)` gives 1 to n new ones, or raises LinkError."""

    def __init__(self, fetch: Callable[[int], Awaitable[list[socket.SocketType]]], budget: Budget) -> None:
        self._fetch = fetch
        self._budget = budget
        self._sockets: list[socket.SocketType] = []
        self._size = 0
        self._low = 0
        self._filled_at = 0.0
        self._taken = False
        self._error = ""
        self._refill: asyncio.Task[None] | None = None
        self._shrinking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._sockets)

    def pop(self) -> socket.SocketType | None:
        """One of the stock; None where it is empty: `get` then."""
        sockets = self._sockets
        self._taken = True
        if len(sockets) <= self._low and self._refill is None:
            self._start()
        if not sockets:
            return None
        self._budget.left += 1
        return sockets.pop()

    async def get(self) -> socket.SocketType:
        """One of the stock, waiting for the refill that `pop` has started. Raises LinkError."""
        while True:
            sock = self.pop()
            if sock is not None:
                return sock
            refill = self._refill
            if refill is None:  # the budget is used up by others
                return (await self._fetch(1))[0]
            await asyncio.wait((refill,))  # which the end of the link may cancel
            if not self._sockets and self._error:
                raise LinkError(self._error)

    def drop(self) -> None:
        """Close all: they belong to a tunnel that is gone."""
        self._budget.left += len(self._sockets)
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def close(self) -> None:
        """Drop them, and fetch no more."""
        self.drop()
        self._error = "the node was taken away"
        if self._refill is not None:
            self._refill.cancel()
        if self._shrinking is not None:
            self._shrinking.cancel()

    def _start(self) -> None:
        now = time.monotonic()
        if now - self._filled_at < QUICKLY_S or not self._size:
            self._size = min(max(self._size * 2, SMALLEST), LARGEST)
            self._low = self._size // 4
        count = min(self._size - len(self._sockets), self._budget.left)
        if count > 0:
            self._refill = asyncio.create_task(self._fill(count), name="stock")
        if self._shrinking is None:
            self._shrinking = asyncio.get_running_loop().call_later(QUIET_S, self._shrink)

    async def _fill(self, count: int) -> None:
        self._budget.left -= count
        fetched: list[socket.SocketType] = []
        self._error = ""
        try:
            fetched = await self._fetch(count)
            self._sockets += fetched
            self._filled_at = time.monotonic()
        except LinkError as error:
            self._error = str(error)
        finally:
            self._budget.left += count - len(fetched)
            self._refill = None

    def _shrink(self) -> None:
        self._shrinking = None
        if not self._taken:
            self._size //= 2
            self._low = self._size // 4
            while len(self._sockets) > self._size:
                self._sockets.pop().close()
                self._budget.left += 1
        self._taken = False
        if self._size:
            self._shrinking = asyncio.get_running_loop().call_later(QUIET_S, self._shrink)

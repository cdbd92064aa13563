"""A user's limits, kept by all workers of all gateways together: concurrent connections, bandwidth, bytes per month.

Each worker holds a lease of a quarter of what is left and renews it once a second, or within 50 ms when it matters;
nothing on the path of a connection waits for it. A worker that has no lease yet starts on a small credit. A lease ends
15 s after its worker was last heard of, so a dead worker's connections come back; a worker that cannot reach Redis
keeps what it has. With W workers that serve the user, the sums can be off by this much and no more:

connections  at most `max_connections` + W × C open, C = a quarter of the limit, at least 8, never more than the limit
             itself: what workers open within the same renewal. While Redis is gone a worker opens no more than its
             lease, or C where it never had one. A worker that was cut off from Redis alone adds the connections
             that it goes on holding once its lease ended.
bandwidth    shares sum up to at most `bytes_per_second` in each direction. A worker without an answer yet takes a
             quarter of it, one whose share is smaller a sixteenth, until the others' next renewal: at most
             (1 + W/4) times the rate, for a second or two; after a pause 0.25 s worth may pass at once. 15 s after
             Redis went, each worker takes rate ÷ (workers it last heard of).
bytes        used up is said after `monthly_bytes` + what passes until the next renewal (1 s, 1.5 s where Redis is
             slow) and the caller's sweep; while Redis is gone each worker stops at the end of its lease (a quarter of
             what was left), or of 1/64 of the limit where it never had one, so W/64 of the limit may be too much. A
             worker cut off alone adds its lease once that ended, a killed one hides its last second; when the month
             begins bytes that were not settled count in the new one.

A Redis restarted empty is told again what its workers know: the highest total of the month that any of them saw, and
what each relayed since. That is exact but for three things: what a worker that died settled after the last
answer to the others is forgotten, so is what only some knew when Redis is emptied again before all renewed (1 s), and
a last report whose answer was lost with that Redis may count twice.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import structlog

from gateway.account import Account, limited
from gateway.bucket import Bucket
from gateway.wire.base import WireError
from health.limits import Ask, Lease, month_of
from health.model import User
from health.registry import RegistryError

log = structlog.get_logger()

INTERVAL_S = 1.0
SOON_S = 0.05
IDLE_S = 10.0
BATCH = 500


class Leases(Protocol):
    """What is needed of the registry."""

    async def renew_limits(self, asks: Iterable[Ask]) -> list[Lease]:
        """One answer per ask. Raises RegistryError."""


class Grant:
    """One connection's place among its user's. Release it once, when the connection ended."""

    __slots__ = ("_account", "_release", "_released")

    def __init__(self, account: Account, release: Callable[[Account], None]) -> None:
        self._account = account
        self._release = release
        self._released = False

    def release(self) -> None:
        """Give the place back. Idempotent."""
        if not self._released:
            self._released = True
            self._release(self._account)

    def count(self, nbytes: int) -> None:
        """`nbytes` passed, in either direction. Counts after `release`, too."""
        self._account.volume.used += nbytes

    @property
    def exhausted(self) -> bool:
        """True when the month's bytes are used up: end the connection."""
        return self._account.volume.exhausted

    @property
    def up(self) -> Bucket | None:
        """What the client's bytes must pass, shared by all connections of the user here; None without a limit."""
        return self._account.up

    @property
    def down(self) -> Bucket | None:
        """The same for the target's bytes."""
        return self._account.down


class Limiter:
    """One worker's accounts. `users` gives the snapshot's users; `clock` monotonic, `wall` Unix seconds."""

    def __init__(
        self,
        registry: Leases,
        users: Callable[[], Mapping[str, User]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._users = users
        self._clock = clock
        self._wall = wall
        self._worker = secrets.token_hex(8)
        self._accounts: dict[str, Account] = {}
        self._soon: dict[str, Account] = {}
        self._wake = asyncio.Event()
        self._lost = False

    def admit(self, user: User | None) -> Grant | None:
        """A place for one connection; None for nobody and for a user without limits.

        Raises WireError: CONNECTION_LIMIT or QUOTA_USED.
        """
        if user is None or not limited(user):
            return None
        now = self._clock()
        account = self._account(user, now)
        try:
            ask_soon = account.admit(now)
        except WireError:
            self._ask_soon(account)
            raise
        if ask_soon:
            self._ask_soon(account)
        return Grant(account, self._release)

    async def run(self) -> None:
        """Renew leases, for ever: all that are in use once a second, those that matter now at once."""
        due = self._clock()
        while True:
            if self._clock() >= due:
                due = self._clock() + INTERVAL_S
                await self._renew(self._in_use())
            else:
                await self._renew(list(self._soon.values()))
            await asyncio.sleep(SOON_S)
            try:
                async with asyncio.timeout(max(0.0, due - self._clock())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def close(self) -> None:
        """Settle what was relayed and give all leases back; call it when `run` was cancelled and sessions ended."""
        await self._send([(account, account.ask(self._worker, leave=True)) for account in self._held()])

    def _account(self, user: User, now: float) -> Account:
        account = self._accounts.get(user.name)
        if account is None:
            account = Account(user, month_of(self._wall()), now, lambda: secrets.token_hex(8))
            self._accounts[user.name] = account
        elif account.user is not user:
            account.change(user, now)
        return account

    def _release(self, account: Account) -> None:
        tight = account.tight
        account.release(self._clock())
        if tight:
            self._ask_soon(account)

    def _ask_soon(self, account: Account) -> None:
        self._soon[account.user.name] = account
        self._wake.set()

    def _in_use(self) -> list[Account]:
        """All accounts that hold or need a lease, brought up to date."""
        now, month, users = self._clock(), month_of(self._wall()), self._users()
        for account in list(self._accounts.values()):
            user = users.get(account.user.name)
            if user is not None and user is not account.user:
                account.change(user, now)
            elif user is None and account.left and not account.volume.unsettled:
                del self._accounts[account.user.name]
                continue
            if account.volume.month != month:
                account.roll(month)
            account.measure(now)
        return self._held()

    def _held(self) -> list[Account]:
        return [account for account in self._accounts.values() if not account.left or account.volume.unsettled]

    async def _renew(self, accounts: list[Account]) -> None:
        self._soon.clear()
        self._wake.clear()
        idle = self._clock() - IDLE_S
        await self._send([(a, a.ask(self._worker, leave=not a.open and a.touched_at < idle)) for a in accounts])

    async def _send(self, asked: list[tuple[Account, Ask]]) -> None:
        for first in range(0, len(asked), BATCH):
            batch = asked[first : first + BATCH]
            try:
                leases = await self._registry.renew_limits([ask for _, ask in batch])
            except RegistryError as error:
                self._say_lost(str(error))
                for account, _ in batch:
                    account.failed(self._clock())
                continue
            for (account, ask), lease in zip(batch, leases, strict=True):
                account.answered(ask, lease, self._clock())
            self._say_back()

    def _say_lost(self, reason: str) -> None:
        if not self._lost:
            log.warning("Redis is gone; going on with the leases of users' limits", reason=reason)
        self._lost = True

    def _say_back(self) -> None:
        if self._lost:
            log.info("Redis is back; leases of users' limits are renewed")
        self._lost = False

"""Which node a client's session is on: remembered here, and agreed upon with the other gateways through Redis.

Knows no snapshot and no link: whether a node can be used is the Fleet's to say. Redis is asked when a session is new to
this gateway or its node died, 50 ms at most; everything else is written off the path. While Redis does not answer,
rendezvous hashing decides alone, and one look-up a second finds out whether it is back.

A session belongs to the user name that was *proved*. Whoever proved none has the empty one, which all of them share:
calling oneself alice where no password is asked for does not reach alice's sessions.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from health.registry import RegistryError

DEFAULT_TTL_S = 600.0
KEPT = 100_000
LOOK_UP_S = 0.05
PAUSE_S = 1.0  # after Redis did not answer
AT_ONCE = 8  # requests to Redis, each of which takes a connection
WAITING = 1000
# The expiry in Redis moves every quarter of the ttl, and so stands a quarter longer: idle for its ttl, never for less.
REFRESH_SHARE, STORED_TTLS = 0.25, 1.25

Key = tuple[str, str]  # user, session name


class Store(Protocol):
    """What is needed of the registry."""

    async def pin_session(self, user: str, name: str, node: str, ttl: float, replaces: str = "") -> str: ...


@dataclass(slots=True, eq=False)
class Pin:
    """Where a session is. Times are monotonic seconds.

    `origin` is the node its client had last; `told` false while the client has not heard that this is another one now.
    `replaces` is the node that Redis may still have.
    """

    node: str
    expires: float
    origin: str = ""
    told: bool = True
    replaces: str = ""
    written: float = -inf


class Proposal(NamedTuple):
    """What Redis is asked for: to put a session on `node`, if it is on none, or on `replaces`. `ttl` in seconds.

    Where it is on another one, a session that is known here moves there, unless it is `strict`.
    """

    key: Key
    node: str
    ttl: float
    replaces: str = ""
    strict: bool = False


class Sessions:
    """The sessions of one worker, the least recently used out first. Without a `store` they are its own alone."""

    def __init__(self, store: Store | None = None, most: int = KEPT) -> None:
        self.store = store
        self._most = most
        self._pins: OrderedDict[Key, Pin] = OrderedDict()
        self._asking = asyncio.Semaphore(AT_ONCE)
        self._failing = False
        self._quiet_until = -inf
        self._answered = -inf
        self._requests: dict[Proposal, asyncio.Task[None]] = {}

    def find(self, key: Key, now: float) -> Pin | None:
        """The session's place, None where it is not known here or its time is over."""
        pin = self._pins.get(key)
        if pin is None or pin.expires <= now:
            return None
        return pin

    def reachable(self, now: float) -> bool:
        """False where there is no Redis to ask, or it did not answer a moment ago."""
        return self.store is not None and now >= self._quiet_until

    async def agree(self, proposal: Proposal) -> None:
        """Put the session where it is proposed, or where another gateway put it before.

        Takes 50 ms at most, never raises; an answer that comes later counts for the next connection.
        """
        request = self._request(proposal)
        if request is None:
            return
        # Not cancelled: before Python 3.12 redis-py can lose that, and the wait would be Redis's time-out.
        done, _ = await asyncio.wait({request}, timeout=LOOK_UP_S)
        now = time.monotonic()
        if not done and now - self._answered >= LOOK_UP_S:  # otherwise there is only a queue
            self._fell_silent(now)

    def use(self, key: Key, pin: Pin, ttl: float, now: float, *, strict: bool = False) -> str:
        """One more connection by `pin`: the session lives for `ttl` from `now`.

        Returns the node it was on before, where its client has not been told yet.
        """
        moved = "" if pin.told else pin.origin
        pin.origin, pin.told = pin.node, True
        pin.expires = now + ttl
        self._pins.move_to_end(key)
        self._write_soon(key, pin, ttl, now, strict)
        return moved

    def place(self, key: Key, node: str, ttl: float, now: float, *, strict: bool = False, origin: str = "") -> None:
        """Put a session on `node`, new or away from where it was; its client, who had `origin`, is told so."""
        before = self.find(key, now)
        pin = self._keep(key, Pin(node, now + ttl, origin, replaces=before.node if before else ""))
        self._write_soon(key, pin, ttl, now, strict)

    async def close(self) -> None:
        """Ask no more."""
        requests = list(self._requests.values())
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

    def _keep(self, key: Key, pin: Pin) -> Pin:
        self._pins[key] = pin
        self._pins.move_to_end(key)
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)
        return pin

    def _write_soon(self, key: Key, pin: Pin, ttl: float, now: float, strict: bool) -> None:
        if now - pin.written > REFRESH_SHARE * ttl:
            asked = self._request(Proposal(key, pin.node, ttl, pin.replaces, strict))
            pin.written = -inf if asked is None else now

    def _request(self, proposal: Proposal) -> asyncio.Task[None] | None:
        """The request that makes this proposal, None where Redis is not to be asked now."""
        now, task = time.monotonic(), self._requests.get(proposal)
        if task is not None or not self.reachable(now) or len(self._requests) >= WAITING:
            return task
        if self._failing:
            self._quiet_until = now + PAUSE_S  # this one finds out, the others go on without
        task = asyncio.create_task(self._settle(proposal, probing=self._failing), name="session")
        self._requests[proposal] = task
        task.add_done_callback(lambda _: self._requests.pop(proposal, None))
        return task

    async def _settle(self, proposal: Proposal, *, probing: bool) -> None:
        standing = await self._ask(proposal, probing=probing)
        now = time.monotonic()
        pin = self.find(proposal.key, now)
        if pin is None and standing is not None:
            pin = self._keep(proposal.key, Pin(standing, now + proposal.ttl))
        if pin is None or pin.node not in (standing, proposal.node, proposal.replaces):
            return  # unknown, or it moved on meanwhile, with a proposal of its own
        if standing is None:
            pin.written = -inf
            return
        if pin.node != standing and not proposal.strict:  # a strict session stays where its client has it
            pin.origin, pin.node, pin.told, pin.replaces = pin.node, standing, False, ""
        if standing == proposal.node:
            pin.written, pin.replaces = now, ""
        elif standing == pin.node:
            pin.written = -inf  # Redis did not move its expiry for another proposal

    async def _ask(self, proposal: Proposal, *, probing: bool) -> str | None:
        """Where the session is now according to Redis, None where it does not answer."""
        assert self.store is not None  # noqa: S101 - `reachable` says so
        (user, name), node, ttl, replaces, _ = proposal
        async with self._asking:
            if self._failing and not probing:  # another one found out meanwhile
                return None
            try:
                standing = await self.store.pin_session(user, name, node, STORED_TTLS * ttl, replaces)
            except RegistryError:
                self._fell_silent(time.monotonic())
                return None
        self._answered = time.monotonic()
        self._failing, self._quiet_until = False, -inf
        return standing

    def _fell_silent(self, now: float) -> None:
        self._failing, self._quiet_until = True, now + PAUSE_S

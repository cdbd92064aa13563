"""Names, looked up through the tunnel by aiodns, remembered for as long as their TTL says and no longer.

Only the name servers given are ever asked: a fresh channel for every generation of the tunnel, without a look at
resolv.conf or hosts.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import aiodns
import pycares
from pycares.errno import ARES_ECONNREFUSED, ARES_ENODATA, ARES_ENOTFOUND, ARES_ETIMEOUT

from health.agent.dns import valid_name
from health.agent.protocol import LOOKUP_FAILED, LOOKUP_TIMEOUT, NOT_FOUND

MAX_ADDRESSES = 32
_RECORD = {"inet": ("A", pycares.QUERY_TYPE_A), "inet6": ("AAAA", pycares.QUERY_TYPE_AAAA)}
_DEADLINE = 4.0
_TRY_TIMEOUT = 1.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """Addresses and how long they hold (seconds), or in `lookup` why there are none."""

    addresses: tuple[str, ...] = ()
    ttl: float = 0.0
    lookup: str = ""


Key = tuple[str, str]
Query = Callable[[str, str], Awaitable[Answer]]


class Cache:
    """Answers by (name, family), each until its TTL is over, at most `entries` of them. Pure."""

    def __init__(self, entries: int = 4096, longest: float = 300.0, negative: float = 5.0) -> None:
        self._entries = entries
        self._longest = longest
        self._negative = negative
        self._known: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: Key, now: float) -> Answer | None:
        """The answer with the TTL that is left, or None."""
        known = self._known.get(key)
        if known is None:
            return None
        until, answer = known
        if now >= until:
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return replace(answer, ttl=until - now)

    def put(self, key: Key, answer: Answer, now: float) -> Answer:
        """Remember an answer, unless it only says that the look-up went wrong. Returns it with its TTL bounded."""
        ttl = {"": answer.ttl, NOT_FOUND: self._negative}.get(answer.lookup, 0.0)
        bounded = replace(answer, ttl=min(max(ttl, 0.0), self._longest))
        self._known.pop(key, None)
        if bounded.ttl > 0:
            self._known[key] = (now + bounded.ttl, bounded)
            while len(self._known) > self._entries:
                self._known.popitem(last=False)
        return bounded

    def clear(self) -> None:
        self._known.clear()


class Resolver:
    """Look-ups of one generation of the tunnel; the same question is asked once at a time."""

    def __init__(self, query: Query, clock: Callable[[], float] = time.monotonic, cache: Cache | None = None) -> None:
        self._query = query
        self._clock = clock
        self._cache = Cache() if cache is None else cache
        self._asked: dict[Key, asyncio.Future[Answer]] = {}

    async def resolve(self, name: str, family: str) -> Answer:
        """The addresses of `name` of `family` (inet, inet6)."""
        if not valid_name(name):
            return Answer(lookup=NOT_FOUND)
        key = (name.removesuffix(".").lower(), family)
        known = self._cache.get(key, self._clock())
        if known is not None:
            return known
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = asyncio.ensure_future(self._ask(key))
            asked.add_done_callback(lambda _: self._asked.pop(key, None))
        # Shielded: one asker that goes away must not take the answer from the others.
        return await asyncio.shield(asked)

    def cancel(self) -> None:
        """Give up on everything under way."""
        for asked in list(self._asked.values()):
            asked.cancel()

    async def _ask(self, key: Key) -> Answer:
        try:
            async with asyncio.timeout(_DEADLINE):
                answer = await self._query(*key)
        except TimeoutError:
            answer = Answer(lookup=LOOKUP_TIMEOUT)
        return self._cache.put(key, answer, self._clock())


class Channel:
    """aiodns with name servers of our choice."""

    def __init__(self, servers: tuple[str, ...]) -> None:
        self._dns = aiodns.DNSResolver(nameservers=servers, timeout=_TRY_TIMEOUT, tries=_TRIES, lookups="b")

    async def query(self, name: str, family: str) -> Answer:
        """Ask, and sort what came back."""
        record, kind = _RECORD[family]
        try:
            result = await self._dns.query_dns(name + ".", record)
        except aiodns.error.DNSError as error:
            return Answer(lookup=_why(error))
        return answer_of(result.answer, kind)

    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._dns.close()


def answer_of(records: list[pycares.DNSRecord], kind: int) -> Answer:
    """The addresses among the records of an answer; the TTL is the shortest on the way, aliases included."""
    addresses = [getattr(record.data, "addr", "") for record in records if record.type == kind]
    if not addresses:
        return Answer(lookup=NOT_FOUND)
    ttl = min(record.ttl for record in records if record.type in (kind, pycares.QUERY_TYPE_CNAME))
    return Answer(tuple(addresses[:MAX_ADDRESSES]), float(ttl))


def _why(error: aiodns.error.DNSError) -> str:
    number = error.args[0] if error.args else None
    if number in (ARES_ENOTFOUND, ARES_ENODATA):
        return NOT_FOUND
    return LOOKUP_TIMEOUT if number in (ARES_ETIMEOUT, ARES_ECONNREFUSED) else LOOKUP_FAILED

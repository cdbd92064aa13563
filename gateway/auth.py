"""Who a client is: proxy users checked against the snapshot's argon2id hashes.

The expensive hash is paid once per user, password and process; after that a keyed digest is compared in constant time.
An unknown user costs the same work as a wrong password. One thread hashes; a short queue, then log-ins are refused,
since guesses must not take the cores away from traffic (19 MiB and t=2 a guess, OWASP password storage cheat sheet).

Failed log-ins are slowed per address, never per user: nobody can lock a user out. All workers of a gateway count them
together (`tell`, `hear`); a guess at one counts at the others a moment after its hash. Verified credentials are never
slowed, from any address; the price is that a slowed address still learns whether a guess is a password that this
process has verified already. Short passwords are therefore not saved by the slowing.
"""

import asyncio
import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.guesses import Entry, Guesses, Word, block_of
from gateway.wire.base import Address, WireError
from health.model import User
from health.reasons import Reason

QUEUE = 16
VERIFIED_KEPT = 10_000
K = TypeVar("K")
V = TypeVar("V")


class Authenticator:
    """Checks passwords for one worker.

    `clock` gives monotonic seconds; `tell` takes what the other workers should `hear`, `failures` is what they know.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[Word], None] = lambda word: None,
        failures: Sequence[Entry] = (),
    ) -> None:
        self._clock = clock
        self._tell = tell
        self._guesses = Guesses()
        self._guesses.load(failures, clock())
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        self._key = secrets.token_bytes(32)
        # digest of what was proved, by user name; a changed hash in the record makes it worthless.
        self._verified: OrderedDict[str, bytes] = OrderedDict()
        # who logged in from where: these are served though somebody else at the same address guesses
        self._at_home: OrderedDict[tuple[bytes, str], None] = OrderedDict()
        self._running: dict[bytes, asyncio.Future[bool]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="argon2")

    async def check(self, users: Mapping[str, User], name: str, password: str, source: Address) -> User:
        """The user, if the password is right. `source` is the client's own address.

        Raises WireError(AUTH_FAILED), WireError(AUTH_SLOWED) or WireError(AUTH_BUSY).
        """
        user = users.get(name)
        stored = user.password_hash if user else self._nobody
        proof = hmac.digest(self._key, f"{stored}\0{password}".encode(errors="surrogateescape"), hashlib.sha256)
        known = self._verified.get(name, b"")
        if hmac.compare_digest(known, proof) and user is not None and not self.slowed(source, name):
            return user
        if not await self._hash_matches(proof, stored, password, source) or user is None:
            raise WireError(Reason.AUTH_FAILED, "user name or password is wrong")
        _keep(self._verified, name, proof)
        _keep(self._at_home, (block_of(source), name), None)
        return user

    def slowed(self, source: Address, name: str) -> bool:
        """Whether `source` must wait before a log-in as `name` is even looked at.

        Without this, guesses at a password that was proved before would be answered as quickly as they come.
        """
        if not self._guesses or (block_of(source), name) in self._at_home:
            return False
        return self._guesses.wait(source, self._clock()) > 0

    def hear(self, word: Word) -> None:
        """What another worker tells."""
        self._guesses.hear(word, self._clock())

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _hash_matches(self, proof: bytes, stored: str, password: str, source: Address) -> bool:
        # A browser opens many connections at once with the same password: they wait for one hash together.
        running = self._running.get(proof)
        if running is None or self._guesses.wait(source, self._clock()):
            told = self._may_guess(source)
            running = asyncio.get_running_loop().run_in_executor(self._thread, self._verify, stored, password)
            self._running[proof] = running
            running.add_done_callback(lambda done: self._settle(proof, source, told, done))
        return await asyncio.shield(running)

    def _may_guess(self, source: Address) -> bool:
        """Count a guess; True when the others were told already. Raises WireError."""
        now = self._clock()
        wait = math.ceil(self._guesses.wait(source, now))
        if wait:
            detail = f"too many failed log-ins from this address: try again in {wait} s"
            raise WireError(Reason.AUTH_SLOWED, detail, retry_after=wait)
        if len(self._running) >= QUEUE:
            raise WireError(Reason.AUTH_BUSY, "too many log-ins at once: try again in a second", retry_after=1)
        tell = self._guesses.begin(source, now)
        if tell:
            self._tell((block_of(source), 1))
        return tell

    def _settle(self, proof: bytes, source: Address, told: bool, done: "asyncio.Future[bool]") -> None:
        self._running.pop(proof, None)
        if done.cancelled():
            return
        if done.exception() is None and done.result():
            self._guesses.succeeded(source)
            if told:
                self._tell((block_of(source), -1))
        elif not told:
            self._tell((block_of(source), 1))

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


def _keep(table: "OrderedDict[K, V]", key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > VERIFIED_KEPT:
        table.popitem(last=False)

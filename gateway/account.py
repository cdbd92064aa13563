"""One user's limits as one worker applies them between two answers of the registry. Pure: times and tokens come in.

Knows what it may do on its lease, what it may do on credit, and what to report; not how the report travels.
`gateway.limits` says how far all workers together can be off.
"""

from collections.abc import Callable

from gateway.bucket import Bucket
from gateway.wire.base import WireError
from health.limits import LEASE_S, Ask, Lease
from health.model import User
from health.reasons import Reason

CREDIT = 8
FIRST_RATE = 4  # a quarter of the rate, until the first answer
LEAST_RATE = 16
FIRST_BYTES = 64
HEADROOM = 1.25


def credit(limit: int) -> int:
    """Connections a worker may open beyond its lease before it must have asked: a quarter, 8 of a small limit."""
    return min(limit, max(CREDIT, -(-limit // 4)))


def limited(user: User) -> bool:
    """Whether there is anything to keep."""
    return user.max_connections is not None or user.bytes_per_second is not None or user.monthly_bytes is not None


class Volume:
    """The bytes of one month. `member` names this worker's part of it in the registry."""

    def __init__(self, month: str, member: str, limit: int | None) -> None:
        self.month, self.member = month, member
        self.used = 0
        self.settled = 0
        self.seen = 0
        self.generation = ""
        self._base = 0
        self._end = (limit or 0) // FIRST_BYTES
        self.exhausted = False

    @property
    def unsettled(self) -> int:
        """Bytes relayed since the last answer."""
        return self.used - self.settled

    @property
    def counted(self) -> int:
        """Bytes relayed since `generation` was first seen."""
        return self.used - self._base

    def answered(self, ask: Ask, lease: Lease) -> None:
        """What was asked is settled; without a lease a little of what is left may be used next time."""
        if lease.generation != self.generation:
            self._base = self.settled
            self.generation = lease.generation
        self.settled += ask.unsettled
        self.seen = lease.total
        left = max(ask.monthly_bytes - lease.total, 0)
        # Where the rest is leased to others there is still a rest.
        self.exhausted = ask.monthly_bytes > 0 and not left
        self._end = self.settled + (min(left, ask.monthly_bytes // FIRST_BYTES) if ask.leave else lease.bytes)

    def failed(self, limit: int | None) -> None:
        """No answer came: what was leased is all there is."""
        self.exhausted = limit is not None and (self.exhausted or self.used >= self._end)


class Account:
    """One user in one worker. `token` makes a fresh random name."""

    def __init__(self, user: User, month: str, now: float, token: Callable[[], str]) -> None:
        self.user = user
        self.open = 0
        self.volume = Volume(month, token(), user.monthly_bytes)
        self.up: Bucket | None = None
        self.down: Bucket | None = None
        self.touched_at = now
        self.left = True
        self._token = token
        self._lease: Lease | None = None
        self._leased_at = now
        self._ceiling = 0
        self._lost = False
        self._demand: int | None = None
        self._passed = (0, 0)
        self._measured_at = now
        self.change(user, now)

    def change(self, user: User, now: float) -> None:
        """Take over changed limits; the registry is asked with them next."""
        self.user = user
        if user.bytes_per_second is None:
            self.up = self.down = None
        elif self.up is None:
            first = user.bytes_per_second / FIRST_RATE
            self.up, self.down = Bucket(first, now), Bucket(first, now)
        self._set_rate(now)

    def admit(self, now: float) -> bool:
        """One more connection; True when the registry should be asked soon.

        Raises WireError: CONNECTION_LIMIT or QUOTA_USED.
        """
        self.touched_at = now
        self.left = False
        if self.volume.exhausted:
            raise WireError(Reason.QUOTA_USED, "this user's bytes for the month are used up")
        if self.user.max_connections is not None and self.open >= self._room(self.user.max_connections):
            raise WireError(
                Reason.CONNECTION_LIMIT, f"this user may have {self.user.max_connections} connections open at once"
            )
        self.open += 1
        return self._lease is None or self.tight

    def release(self, now: float) -> None:
        """One connection less."""
        self.open -= 1
        self.touched_at = now

    @property
    def tight(self) -> bool:
        """The lease of connections is used up: whatever changes should be told soon."""
        leased = self._lease.connections if self._lease else 0
        return self.user.max_connections is not None and self.open >= leased

    def roll(self, month: str) -> None:
        """A new month: what was not settled counts in it."""
        rest = self.volume.unsettled
        self.volume = Volume(month, self._token(), self.user.monthly_bytes)
        self.volume.used = rest

    def measure(self, now: float) -> None:
        """Once per interval: how much of the rate could be used here."""
        if self.up is None or self.down is None or now <= self._measured_at:
            return
        passed = (self.up.passed, self.down.passed)
        most = max(after - before for after, before in zip(passed, self._passed, strict=True))
        self._demand = int(HEADROOM * most / (now - self._measured_at))
        if self._starved():
            self._demand = self.user.bytes_per_second or 0
        self.up.dry = self.down.dry = False
        self._passed, self._measured_at = passed, now

    def ask(self, worker: str, *, leave: bool = False) -> Ask:
        """The report. Call `answered` with it, or `failed`."""
        user, volume = self.user, self.volume
        rate = user.bytes_per_second or 0
        return Ask(
            user=user.name,
            worker=worker,
            member=volume.member,
            month=volume.month,
            max_connections=user.max_connections or 0,
            bytes_per_second=rate,
            monthly_bytes=user.monthly_bytes or 0,
            open=self.open,
            demand=rate if self._demand is None or self._starved() else min(self._demand, rate),
            generation=volume.generation,
            counted=volume.counted,
            unsettled=volume.unsettled,
            seen=volume.seen,
            leave=leave,
        )

    def answered(self, ask: Ask, lease: Lease, now: float) -> None:
        """The registry's answer to `ask`."""
        if ask.member == self.volume.member:
            self.volume.answered(ask, lease)
        self._lost = False
        if ask.leave:
            self.left, self._lease, self._demand = True, None, None
        else:
            self._lease, self._leased_at = lease, now
            self._ceiling = max(lease.connections, ask.open + min(lease.vacant, credit(ask.max_connections)))
        self._set_rate(now)

    def failed(self, now: float) -> None:
        """The registry did not answer: what was leased is all there is."""
        self._lost = True
        self.volume.failed(self.user.monthly_bytes)
        self._set_rate(now)

    def _starved(self) -> bool:
        return any(bucket is not None and bucket.dry for bucket in (self.up, self.down))

    def _room(self, limit: int) -> int:
        if self._lease is None:
            return credit(limit)
        return self._lease.connections if self._lost else self._ceiling

    def _set_rate(self, now: float) -> None:
        limit = self.user.bytes_per_second
        if limit is None or self.up is None or self.down is None:
            return
        if self._lease is None:
            share = limit / FIRST_RATE
        elif now - self._leased_at > LEASE_S:
            share = limit / max(self._lease.workers, 1)
        else:
            share = max(self._lease.rate, limit / LEAST_RATE)
        self.up.set_rate(share, now)
        self.down.set_rate(share, now)

"""What gateway workers and the registry tell each other about a user's limits. Values only."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

LEASE_S = 15.0
USAGE_KEPT_S = 62 * 86400


def month_of(now: float) -> str:
    """The calendar month (UTC) of a Unix time, as yyyymm."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m")


@dataclass(frozen=True, slots=True)
class Ask:
    """One worker's report about one user, and its wish for a lease.

    `member` is a token of this worker for this month; `demand` the bytes per second it could use in its busier
    direction; limits that do not exist are 0. Of the bytes relayed this month, `counted` are those since `generation`
    was first seen, `unsettled` those since the last answer, and `seen` is the month's total that answer told.
    `leave` settles without a lease.
    """

    user: str
    worker: str
    member: str
    month: str
    max_connections: int
    bytes_per_second: int
    monthly_bytes: int
    open: int
    demand: int
    generation: str
    counted: int
    unsettled: int
    seen: int
    leave: bool = False
    ttl_ms: int = int(LEASE_S * 1000)
    keep_s: int = USAGE_KEPT_S

    def dump(self) -> str:
        """JSON, as the script reads it."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Lease:
    """The registry's answer.

    `connections` this worker may hold open, `vacant` how many fewer than allowed are open in all (negative: more),
    `rate` its share in bytes per second, `workers` how many hold a lease, `bytes` it may relay beyond what it told,
    `total` the month's bytes so far.
    """

    connections: int
    vacant: int
    rate: int
    workers: int
    bytes: int
    total: int
    generation: str

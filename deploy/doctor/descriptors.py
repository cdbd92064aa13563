"""How many files a process may have open, which is how many clients a gateway's worker can carry."""

import resource
from collections.abc import Iterator
from dataclasses import dataclass

from deploy.doctor.model import Finding, failed, ok, warning
from gateway.resources import MOST_DESCRIPTORS, Budget

ENOUGH = 4000  # clients of one worker
LEAST = 100


@dataclass(frozen=True, slots=True)
class Limit:
    """The hard limit: a gateway raises its own to that."""

    hard: int


def look() -> Limit:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limit(MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS))


def judge(limit: Limit) -> Iterator[Finding]:
    try:
        clients = Budget(limit.hard, pipes=0).connections
    except OSError:
        clients = 0
    text = f"{limit.hard:,} open files here: about {clients:,} clients for each worker"
    mend = "LimitNOFILE=1048576 in the systemd unit; in a shell `ulimit -Hn 1048576` as root"
    if clients >= ENOUGH:
        yield ok("descriptors", text)
    elif clients >= LEAST:
        yield warning("descriptors", text, "More than that are refused.", mend)
    else:
        yield failed("descriptors", text, "A gateway that starts at all refuses nearly everybody.", mend)

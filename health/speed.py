"""What a speed test of a node is, and when one is due. Values only: no I/O, no clock.

A test is asked for, taken by the collector of the node's machine, and ends in a result. Whatever happens to whoever
took it: after `ends` (Redis's clock) the test is over, and its result says that nobody finished it.
"""

from enum import StrEnum
from hashlib import blake2b
from typing import Annotated

from pydantic import Field

from health.model import Country, NodeId, Record
from health.reasons import Reason

TestId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Positive = Annotated[float, Field(ge=0)]


class State(StrEnum):
    """How far a test is that has no result yet."""

    WAITING = "waiting"
    RUNNING = "running"


class Test(Record):
    """A test that waits or runs. Times are Unix milliseconds; `by` is the collector that took it."""

    __test__ = False  # to pytest, whose tests have such names

    id: TestId
    node: NodeId
    country: Country
    state: State
    by: str = ""
    asked: float
    ends: float


class Result(Record):
    """What a test measured: megabits (10^6 bits) per second of payload, milliseconds of the best TCP round trip.

    None is what was not measured; `reason` and `error` say why. `at` (Unix seconds) is when it ended; it is not part
    of the stored value.
    """

    id: TestId
    node: NodeId
    country: Country
    download_mbps: Positive | None = None
    upload_mbps: Positive | None = None
    latency_ms: Positive | None = None
    reason: Reason = Reason.OK
    error: str = ""
    at: float = 0.0


def abandoned(test: Test, machine: str) -> Result:
    """The result of a test that nobody ended in time."""
    error = (
        f"no collector of machine {machine} took the test in time: is it running, with an endpoint configured?"
        if test.state is State.WAITING
        else f"the collector of machine {machine} ended in the middle of the test"
    )
    return Result(id=test.id, node=test.node, country=test.country, reason=Reason.INTERNAL, error=error)


def due(node_id: str, before: float, now: float, every: float) -> bool:
    """Whether a node's moment lies after `before` and not after `now`.

    It has one in every stretch of `every` seconds, at a place that differs from node to node and from stretch to
    stretch: tests are spread, and nobody has to remember when the last one was.
    """
    stretches = {int(before // every), int(now // every)}
    return any(before < (stretch + _place(node_id, stretch)) * every <= now for stretch in stretches)


def _place(node_id: str, stretch: int) -> float:
    digest = blake2b(f"{node_id}:{stretch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / (1 << 64)

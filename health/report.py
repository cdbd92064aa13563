"""What a gateway worker tells of the nodes it dials through. Values only.

Counts rise for as long as the worker lives and begin at nothing with every new worker: whoever reads them goes by the
difference between two readings, so a report that was missed is made up for by the next.
"""

from typing import Annotated, NamedTuple

from pydantic import Field

from health.model import NodeId, Record

Count = Annotated[int, Field(ge=0, le=2**53)]
Total = Annotated[float, Field(ge=0, le=1e15)]
MOST_NODES = 1000


class Counts(NamedTuple):
    """One node's. Times in ms; `dial_ms` and `first_byte_ms` are sums.

    `reached`: dials whose target answered, be it by a refusal, and that took `dial_ms` together, the quickest since the
    last report `quickest_ms` (None: there was none). `node_failures`, `target_failures`, `client_failures`: dials that
    came to nothing, by whose fault. `first_bytes`: connections on which the target sent something, the first of it
    `first_byte_ms` after it was connected. `in_flight`: connections now, dials included. `turned_away`: of those
    reached, how many the target refused, or ended before it had sent anything.
    """

    reached: Count = 0
    node_failures: Count = 0
    target_failures: Count = 0
    client_failures: Count = 0
    dial_ms: Total = 0.0
    first_bytes: Count = 0
    first_byte_ms: Total = 0.0
    in_flight: Count = 0
    quickest_ms: Annotated[float, Field(ge=0, le=1e9)] | None = None
    turned_away: Count = 0


class Report(Record):
    """One worker's. Only nodes that it used lately need be in it. `gateway` is the same for all workers of one."""

    worker: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    gateway: Annotated[str, Field(min_length=1, max_length=256)]
    nodes: Annotated[dict[NodeId, Counts], Field(max_length=MOST_NODES)]

"""How many nodes a pool should have for the connections it carries. Pure: up at once, down slowly.

    needed = connections / target_connections, rounded up

Up as soon as the pool is more than TOLERANCE above its target, to what is needed, at most doubling in one step. Down
by one node, only when at every look of the last DOWN_AFTER_S seconds the connections would have fitted into fewer nodes
filled to no more than FIT of their target; and then not again before as much time has passed. What is not known (a
gateway did not answer) never scales down.
"""

import math
from dataclasses import dataclass

from health.model import Pool

TOLERANCE = 0.1
FIT = 0.8
DOWN_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """The connections open through a pool. `complete`: all gateways were heard."""

    connections: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Past:
    """What is remembered between two looks.

    `calm_since`: since when (monotonic seconds) fewer nodes would have done, None where they would not. `most`: the
    highest number of nodes needed since then.
    """

    calm_since: float | None = None
    most: int = 0


def advise(pool: Pool, load: Load, past: Past, now: float) -> tuple[int, Past]:
    """The `desired` that `pool` should have now, and what to remember. Never outside `min` (at least 1) and `max`."""
    if pool.target_connections is None or pool.desired == 0:
        return pool.desired, Past()
    lowest = min(max(pool.min, 1), pool.max)
    target = pool.target_connections
    if load.connections > pool.desired * target * (1 + TOLERANCE):
        needed = min(math.ceil(load.connections / target), 2 * pool.desired)
        return min(max(needed, pool.desired, lowest), pool.max), Past()
    roomy = max(math.ceil(load.connections / (target * FIT)), lowest)
    if roomy >= pool.desired or not load.complete:
        return min(max(pool.desired, lowest), pool.max), Past()
    since = now if past.calm_since is None else past.calm_since
    most = max(past.most, roomy)
    if now - since < DOWN_AFTER_S or most >= pool.desired:
        return pool.desired, Past(since, most)
    return pool.desired - 1, Past()

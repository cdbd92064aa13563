"""How a sample becomes a score. Pure: no I/O, no clock, no chance.

    value = 100 · up · latency · delivery · handshake          (0 worst, 100 best)

    up         1 while the agent is reachable, its tunnel is up and its kill switch in place, else 0: hard-down
    latency    1 / (1 + L / 250 ms), where L is the peak-EWMA of the probe's round trip: it jumps to a higher value at
               once and falls to a lower one with a time constant of 10 s. 0 ms 1.00, 50 ms 0.83, 250 ms 0.50; while
               nothing is measured yet 0.50
    delivery   (1 − loss)³. 1 % loss 0.97, 10 % 0.73, 50 % 0.13
    handshake  WireGuard's age of the last handshake: 1 up to 135 s, falling straight to 0 at 180 s. A session is
               renewed after 120 s and refused after 180 s (REKEY_AFTER_TIME and REJECT_AFTER_TIME, WireGuard paper,
               section 6.1). 1 where there is none

Every factor is between 0 and 1 and none grows when its input gets worse, so the value is monotone in each input.

Beside the value stands the node's health, HAProxy's way (`set_server_check_status`): one integer from 0 to
RISE + FALL − 1, healthy from RISE upwards. A bad sample (loss of 30 % or more, or a handshake of 180 s or more) takes
one off, and below RISE all; a good one adds one, and from RISE on fills it up. So FALL bad samples in a row make a
healthy node unhealthy and RISE good ones bring it back. It starts at RISE − 1: the first sample decides. Hard-down
empties it at once; a tunnel that is still starting keeps it at the start.
"""

import math
from dataclasses import dataclass

from health.model import Sample, Score, Tunnel

RISE = 2
FALL = 3
FULL = RISE + FALL - 1
LATENCY_HALF_MS = 250.0
LATENCY_UNKNOWN = 0.5
DECAY_S = 10.0
LOSS_LIMIT = 0.3
HANDSHAKE_FRESH_S = 135.0
HANDSHAKE_DEAD_S = 180.0


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered of a node between two samples. `at` is when the last one was judged, in monotonic seconds."""

    health: int = RISE - 1
    latency_ms: float | None = None
    at: float = 0.0


def judge(state: State, sample: Sample, now: float) -> tuple[State, Score]:
    """The state and score after `sample`, judged at `now` (monotonic seconds). Each sample is to be judged once."""
    if not is_up(sample):
        starting = sample.reachable and sample.tunnel is Tunnel.STARTING
        after = State(health=RISE - 1 if starting else 0, at=now)
    else:
        after = State(_health(state.health, is_bad(sample)), _latency(state, sample.probe_ms, now), now)
    terms = _terms(after, sample)
    return after, Score(
        node=sample.node,
        at=sample.at,
        value=round(100 * math.prod(terms.values()), 2),
        healthy=is_up(sample) and after.health >= RISE,
        terms={**terms, "health": after.health},
        latency_ms=after.latency_ms,
    )


def restore(score: Score, now: float) -> State:
    """The state behind a stored score, so that a scorer that starts goes on where the last one ended."""
    stored = score.terms.get("health", FULL if score.healthy else 0)
    return State(health=min(max(int(stored), 0), FULL), latency_ms=score.latency_ms, at=now)


def is_up(sample: Sample) -> bool:
    """False where the node is hard-down: never to be used."""
    return sample.reachable and sample.tunnel is Tunnel.UP and sample.kill_switch


def is_bad(sample: Sample) -> bool:
    """True for a sample that speaks against a node that is up."""
    age = sample.handshake_age_s
    return sample.loss >= LOSS_LIMIT or (age is not None and age >= HANDSHAKE_DEAD_S)


def unreachable_sample(node: str, at: float) -> Sample:
    """What stands for a node whose agent does not answer. `at` is Unix seconds."""
    return Sample(node=node, at=at, reachable=False)


def direct_sample(node: str, at: float) -> Sample:
    """What stands for this machine itself: no tunnel that could be down or slow. `at` is Unix seconds."""
    return Sample(node=node, at=at, reachable=True, tunnel=Tunnel.UP, kill_switch=True, probe_ms=0.0)


def without_handshake(sample: Sample) -> Sample:
    """For tunnels that are not WireGuard: OpenVPN renews its keys hourly, so the age says nothing there."""
    return sample.model_copy(update={"handshake_age_s": None})


def _health(health: int, bad: bool) -> int:
    if bad:
        return health - 1 if health > RISE else 0
    return health + 1 if health + 1 < RISE else FULL


def _latency(state: State, probe_ms: float | None, now: float) -> float | None:
    known = state.latency_ms
    if probe_ms is None or known is None:
        return known if probe_ms is None else probe_ms
    if probe_ms >= known:
        return probe_ms
    kept = math.exp(-max(now - state.at, 0.0) / DECAY_S)
    return probe_ms + (known - probe_ms) * kept


def _terms(state: State, sample: Sample) -> dict[str, float]:
    latency = state.latency_ms
    return {
        "up": 1.0 if is_up(sample) else 0.0,
        "latency": LATENCY_UNKNOWN if latency is None else 1 / (1 + latency / LATENCY_HALF_MS),
        "delivery": (1 - sample.loss) ** 3,
        "handshake": _freshness(sample.handshake_age_s),
    }


def _freshness(age: float | None) -> float:
    if age is None:
        return 1.0
    return min(max((HANDSHAKE_DEAD_S - age) / (HANDSHAKE_DEAD_S - HANDSHAKE_FRESH_S), 0.0), 1.0)

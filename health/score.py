"""How a sample becomes a score. Pure: no I/O, no clock, no chance.

    value = 100 · up · latency · jitter · delivery · failures · dns · handshake · flow · load      (0 worst, 100 best)

    up         1 while the agent is reachable, its tunnel is up and its kill switch in place, else 0: hard-down
    latency    1 / (1 + (L / 250 ms)²), where L is the peak-EWMA of what a connection through the node takes: it jumps
               to a higher value at once and falls to a lower one with a time constant of 5 s. 0 ms 1.00, 50 ms 0.96,
               250 ms 0.50, 550 ms 0.17; 0.50 while nothing is measured. Measured is the higher one of the agent's
               probe and its connects to targets; where no agent is (an upstream), the quickest of the gateways' last
               dials. What is not measured any more is forgotten with a time constant of 60 s
    jitter     1 / (1 + (J / 500 ms)²). 50 ms 0.99, 250 ms 0.80
    delivery   (1 − loss)³ of the loss above 5 %: of 20 probes one may get lost and mean nothing. 10 % 0.85, 30 % 0.40,
               50 % 0.15
    failures   (1 − share)⁵ of the gateways' dials that failed by the node's own fault; 10 % 0.59, 20 % 0.33
    dns        1 / (1 + (D / 1 s)²) for a look-up at the exit that took D; 0.25 where it failed
    handshake  WireGuard's age of the last handshake: 1 up to 135 s, falling straight to 0 at 180 s. A session is
               renewed after 120 s and refused after 180 s (REKEY_AFTER_TIME and REJECT_AFTER_TIME, WireGuard paper,
               section 6.1). 1 where there is none
    flow       whether bytes come back: 1 until the node sent for 5 s without receiving anything, falling straight to 0
               at 10 s; 0 as well where connections through it are never answered, not even by a refusal, and its
               neighbours' are
    load       1 up to 70 % of its processor, falling straight to 0.5 at 100 %

Every factor is between 0 and 1 and none grows when its input gets worse, so the value is monotone in each input. A
target's fault is no input: neither a dial that a target refused or left unanswered, nor how long its answer took.

Beside the value stands the node's health, HAProxy's way (`set_server_check_status`): one integer from 0 to
RISE + FALL − 1, healthy from RISE upwards. A bad sample takes one off, and below RISE all; a good one adds one, and
from RISE on fills it up. So FALL bad samples in a row make a healthy node unhealthy and RISE good ones bring it back.
Bad is any of: loss of 30 %, half of the gateways' dials failed, a handshake of 180 s, 10 s without a byte, never an
answer; and while the node is unhealthy already any of: 15 %, a quarter, 135 s, 5 s. It starts at RISE − 1: the first
sample decides. Hard-down empties it at once; a tunnel that is still starting keeps it at the start.
"""

import math
from dataclasses import dataclass

from health.evidence import NOTHING, Seen
from health.model import Sample, Score, Tunnel

RISE = 2
FALL = 3
FULL = RISE + FALL - 1
LATENCY_HALF_MS = 250.0
LATENCY_UNKNOWN = 0.5
JITTER_HALF_MS = 500.0
DECAY_S = 5.0
FORGET_S = 60.0
LOSS_NOISE = 0.05
DNS_HALF_MS = 1000.0
DNS_FAILED = 0.25
HANDSHAKE_FRESH_S = 135.0
HANDSHAKE_DEAD_S = 180.0
SILENT_S = (5.0, 10.0)
BUSY_PERCENT = (70.0, 100.0)
MUTE = -1.0

MEANING = {
    "up": "1 while its agent answers, its tunnel is up and its kill switch is in place, else 0",
    "latency": "what a connection through it takes in ms: a peak counts at once and fades within seconds",
    "jitter": "how much that varies, in ms",
    "delivery": "share of its probes that were lost",
    "failures": "share of the gateways' dials that failed by its own fault; a target's fault does not count",
    "dns": "a look-up at the exit in ms; -1 where it failed",
    "handshake": "seconds since WireGuard's last handshake",
    "flow": "seconds for which it sent and received nothing; -1 where no connection through it was ever answered",
    "load": "its processor time in percent",
    "health": "rise and fall: healthy from 2 of 4 on; no factor of the score",
}


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered of a node between two samples. `at` is when the last one was judged, in monotonic seconds.

    `moved_at`: when bytes came in last, or nothing had been sent since; the counts are those of that moment.
    """

    health: int = RISE - 1
    latency_ms: float | None = None
    at: float = 0.0
    moved_at: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Limits:
    """From where on a sample speaks against a node."""

    loss: float
    failures: float
    handshake_age_s: float
    silent_s: float


_WELL = _Limits(0.3, 0.5, HANDSHAKE_DEAD_S, SILENT_S[1])
_SICK = _Limits(0.15, 0.25, HANDSHAKE_FRESH_S, SILENT_S[0])


def judge(state: State, sample: Sample, now: float, seen: Seen = NOTHING, *, mute: bool = False) -> tuple[State, Score]:
    """The state and score after `sample`, judged at `now` (monotonic seconds). Each sample is to be judged once.

    `mute`: of the connections through it none was answered, unlike through its neighbours.
    """
    flowing = _flow(state, sample, now)
    if not is_up(sample):
        starting = sample.reachable and sample.tunnel is Tunnel.STARTING
        after = _with(flowing, RISE - 1 if starting else 0, None, now)
    else:
        bad = is_bad(sample, seen, silence(flowing, now), mute=mute, well=state.health >= RISE)
        after = _with(flowing, step(state.health, bad=bad), _latency(state, measured_ms(sample, seen), now), now)
    terms, inputs = _terms(after, sample, seen, now, mute)
    return after, Score(
        node=sample.node,
        at=sample.at,
        value=round(100 * math.prod(terms.values()), 2),
        healthy=is_up(sample) and after.health >= RISE,
        terms={**terms, "health": after.health},
        inputs={name: round(value, 4) for name, value in inputs.items() if value is not None},
        seen=_shown(seen),
        latency_ms=after.latency_ms,
    )


def restore(score: Score, now: float) -> State:
    """The state behind a stored score, so that a scorer that starts goes on where the last one ended."""
    stored = score.terms.get("health", FULL if score.healthy else 0)
    return State(health=min(max(int(stored), 0), FULL), latency_ms=score.latency_ms, at=now)


def step(health: int, *, bad: bool) -> int:
    """The health after one more sample."""
    if bad:
        return health - 1 if health > RISE else 0
    return health + 1 if health + 1 < RISE else FULL


def is_up(sample: Sample) -> bool:
    """False where the node is hard-down: never to be used."""
    return sample.reachable and sample.tunnel is Tunnel.UP and sample.kill_switch


def is_bad(
    sample: Sample, seen: Seen = NOTHING, silent_s: float = 0.0, *, mute: bool = False, well: bool = True
) -> bool:
    """True for a sample that speaks against a node that is up. `well`: the node is healthy so far."""
    limits = _WELL if well else _SICK
    age = sample.handshake_age_s
    return (
        mute
        or sample.loss >= limits.loss
        or seen.failures >= limits.failures
        or silent_s >= limits.silent_s
        or (age is not None and age >= limits.handshake_age_s)
    )


def measured_ms(sample: Sample, seen: Seen) -> float | None:
    """What a connection through the node takes now, None where nothing says so."""
    if sample.probe_ms is None:
        return seen.quickest_ms if sample.connect_ms is None else sample.connect_ms
    return max(sample.probe_ms, sample.connect_ms or 0.0)


def silence(state: State, now: float) -> float:
    """For how many seconds the node has sent without receiving anything."""
    return 0.0 if state.moved_at is None else max(now - state.moved_at, 0.0)


def unreachable_sample(node: str, at: float) -> Sample:
    """What stands for a node whose agent does not answer. `at` is Unix seconds."""
    return Sample(node=node, at=at, reachable=False)


def direct_sample(node: str, at: float) -> Sample:
    """What stands for this machine itself: no tunnel that could be down or slow. `at` is Unix seconds."""
    return Sample(node=node, at=at, reachable=True, tunnel=Tunnel.UP, kill_switch=True, probe_ms=0.0)


def upstream_sample(node: str, at: float) -> Sample:
    """What stands for somebody else's proxy: only the gateways know how it is. `at` is Unix seconds."""
    return Sample(node=node, at=at, reachable=True, tunnel=Tunnel.UP, kill_switch=True)


def without_handshake(sample: Sample) -> Sample:
    """For tunnels that are not WireGuard: OpenVPN renews its keys hourly, so the age says nothing there."""
    return sample.model_copy(update={"handshake_age_s": None})


def _with(state: State, health: int, latency_ms: float | None, now: float) -> State:
    return State(health, latency_ms, now, state.moved_at, state.rx_bytes, state.tx_bytes)


def _flow(state: State, sample: Sample, now: float) -> State:
    """The state with the bytes of `sample` taken in."""
    received, sent = sample.rx_bytes != state.rx_bytes, sample.tx_bytes > state.tx_bytes
    if state.moved_at is not None and sent and not received and is_up(sample):
        return state
    return State(state.health, state.latency_ms, state.at, now, sample.rx_bytes, sample.tx_bytes)


def _latency(state: State, measured: float | None, now: float) -> float | None:
    known, passed = state.latency_ms, max(now - state.at, 0.0)
    if known is None:
        return measured
    if measured is None:
        return known * math.exp(-passed / FORGET_S)
    if measured >= known:
        return measured
    return measured + (known - measured) * math.exp(-passed / DECAY_S)


def _terms(
    state: State, sample: Sample, seen: Seen, now: float, mute: bool
) -> tuple[dict[str, float], dict[str, float | None]]:
    latency, silent, cpu = state.latency_ms, silence(state, now), sample.cpu_percent
    failed = sample.dns_ok is False
    terms = {
        "up": 1.0 if is_up(sample) else 0.0,
        "latency": LATENCY_UNKNOWN if latency is None else _halved(latency, LATENCY_HALF_MS),
        "jitter": _halved(sample.jitter_ms or 0.0, JITTER_HALF_MS),
        "delivery": _falling(sample.loss, LOSS_NOISE, 1.0) ** 3,
        "failures": (1 - seen.failures) ** 5,
        "dns": (DNS_FAILED if failed else 1.0) * _halved(sample.dns_ms or 0.0, DNS_HALF_MS),
        "handshake": _falling(sample.handshake_age_s or 0.0, HANDSHAKE_FRESH_S, HANDSHAKE_DEAD_S),
        "flow": 0.0 if mute else _falling(silent, *SILENT_S),
        "load": 0.5 + 0.5 * _falling(cpu or 0.0, *BUSY_PERCENT),
    }
    inputs = {
        "up": terms["up"],
        "latency": latency,
        "jitter": sample.jitter_ms,
        "delivery": sample.loss,
        "failures": seen.failures if seen.dials else None,
        "dns": -1.0 if failed else sample.dns_ms,
        "handshake": sample.handshake_age_s,
        "flow": MUTE if mute else silent,
        "load": cpu,
        "health": float(state.health),
    }
    return terms, inputs


def _halved(value: float, half: float) -> float:
    return 1 / (1 + (value / half) ** 2)


def _falling(value: float, fresh: float, dead: float) -> float:
    return min(max((dead - value) / (dead - fresh), 0.0), 1.0)


def _shown(seen: Seen) -> dict[str, float]:
    """What people are shown of the gateways' view, empty where there is none."""
    shown = {
        "dials": seen.dials,
        "dial_ms": seen.dial_ms,
        "first_byte_ms": seen.first_byte_ms,
        "target_failures": seen.target_failures,
        "client_failures": seen.client_failures,
        "in_flight": float(seen.in_flight),
    }
    return {name: round(value, 2) for name, value in shown.items() if value}

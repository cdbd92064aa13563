"""What control counts while it works; `/metrics` shows it. Knows nothing of what is counted.

Labels are names of steps, outcomes and countries. What could happen is there from the start, at 0: a number that first
appears with its first event shows no rise.
"""

from prometheus_client import Counter, Histogram

from control.model import Advance, Create, Forget, Place, Remove, RemoveOrphan, Retire, Step, Stop, Verify

PREFIX = "vpnexit_control_"
STEPS = Counter(PREFIX + "steps", "Steps of the reconciler", ("step", "outcome"))
ROUNDS = Counter(PREFIX + "rounds", "Rounds of the reconciler", ("outcome",))
ROUND_SECONDS = Histogram(
    PREFIX + "round_seconds",
    "Time of a round of the reconciler",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
NODE_FAILURES = Counter(PREFIX + "node_failures", "Nodes that failed", ("country",))
ENGINE_ERRORS = Counter(PREFIX + "engine_errors", "Rounds that the container engine did not answer")
PROVIDER_REQUESTS = Counter(PREFIX + "provider_requests", "Questions to the VPN providers' APIs")
PROVIDER_ERRORS = Counter(PREFIX + "provider_errors", "Questions to the VPN providers' APIs that failed", ("reason",))

_STEPS = (Place, Create, Advance, Retire, Verify, Stop, Remove, RemoveOrphan, Forget)
_OUTCOMES = ("done", "nothing", "given_up", "failed")
ROUND_OUTCOMES = ("done", "lost_lead", "redis", "broke")
PROVIDER_REASONS = ("timeout", "unreachable", "asked_too_often", "status", "answer")


def stepped(step: Step, outcome: str) -> None:
    """A step ended: `done`, with `nothing` to do, `given_up` because another leads, or `failed`."""
    STEPS.labels(type(step).__name__, outcome).inc()


def _begin() -> None:
    for step in _STEPS:
        for outcome in _OUTCOMES:
            STEPS.labels(step.__name__, outcome)
    for outcome in ROUND_OUTCOMES:
        ROUNDS.labels(outcome)
    for reason in PROVIDER_REASONS:
        PROVIDER_ERRORS.labels(reason)


_begin()

"""What control counts."""

from prometheus_client import REGISTRY

from control import counts
from control.model import Forget
from health.model import Node, NodeKind, NodeStatus


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"vpnexit_control_{name}", labels)


def test_what_could_happen_is_there_at_zero() -> None:
    for outcome in ("done", "nothing", "given_up", "failed"):
        assert value("steps_total", step="Create", outcome=outcome) is not None
    for reason in counts.PROVIDER_REASONS:
        assert value("provider_errors_total", reason=reason) is not None
    for outcome in counts.ROUND_OUTCOMES:
        assert value("rounds_total", outcome=outcome) is not None


def test_a_step_is_counted_by_its_kind() -> None:
    before = value("steps_total", step="Forget", outcome="failed")
    assert before is not None
    node = Node(id="jp3f9a1c", country="jp", kind=NodeKind.VPN, machine="m1", status=NodeStatus.FAILED)
    counts.stepped(Forget(node), "failed")
    assert value("steps_total", step="Forget", outcome="failed") == before + 1

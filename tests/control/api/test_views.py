"""Records as clients see them."""

from control.api.views import STATUS
from health.model import NodeStatus


def test_every_state_has_one_of_the_five_names() -> None:
    assert set(STATUS) == set(NodeStatus)
    assert set(STATUS.values()) == {"running", "stopped", "error", "starting", "stopping"}

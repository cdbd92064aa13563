"""What a dial waits for: whoever gives up waiting leaves nothing behind, and a look-up that fails is told as it is."""

import asyncio
import socket

import pytest

from gateway import dial_tasks
from gateway.errors import LinkError, LookupFailedError
from gateway.wire.base import Target, WireError
from health.reasons import Reason
from tests.gateway.stub_fleet import node
from tests.gateway.test_dial import JP, Make, OwnFleet, at, descriptors, dialler, poller, unconnected

__all__ = ["dialler", "poller"]


@pytest.mark.parametrize("turns", range(4))
async def test_a_task_that_is_cancelled_in_any_moment_leaves_nothing(dialler: Make, turns: int) -> None:
    """Also between the connection and the turn of whoever waits for it."""
    fleet = OwnFleet(node("jp000001"))
    link, before = fleet.own("jp000001"), descriptors()
    made = dialler(fleet)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link.stock = [unconnected()]
        task = asyncio.create_task(dial_tasks.dial(made, JP, "u", at(listener.getsockname()[1])))
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == 3:  # connected, and not yet its turn
            while not link.tunnels:
                made.poller._ready()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (link.in_flight, len(made.patience), len(made.deadlines)) == (0, 0, 0)
    for unused in link.stock:
        unused.close()
    assert descriptors() == before


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (LookupFailedError(Reason.NAME_NOT_FOUND), Reason.NAME_NOT_FOUND),
        (LookupFailedError(Reason.NAME_LOOKUP), Reason.NAME_LOOKUP),
        (LinkError("the agent does not answer"), Reason.NODE_DIAL),
    ],
)
async def test_a_look_up_that_fails(
    dialler: Make, failure: Exception, expected: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = OwnFleet(node("jp000001"))
    link = fleet.own("jp000001")

    async def resolve(name: str) -> tuple[str, ...]:
        raise failure

    monkeypatch.setattr(link, "resolve", resolve)
    with pytest.raises(WireError) as refused:
        await dial_tasks.dial(dialler(fleet), JP, "u", Target("name.test", 80))
    assert refused.value.reason is expected
    assert link.in_flight == 0

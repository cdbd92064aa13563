"""Waiting: what counts as there, and what happens until then."""

from collections.abc import Mapping
from typing import Any

import pytest

from deploy.api_client import ApiError, UnreachableError
from deploy.commands.waiting import Stand, node_stand, pool_stand, rotation_stand, until
from tests.deploy.commands.standin import node, pool


@pytest.mark.parametrize(
    ("changes", "stand"),
    [
        ({}, Stand("jp3f9a1c serves from 198.18.10.11", done=True)),
        ({"exit_ip": None}, Stand("jp3f9a1c serves", done=True)),
        ({"state": "verifying", "reason": "its DNS"}, Stand("jp3f9a1c is verifying: its DNS")),
        ({"state": "failed", "reason": "AUTH_FAILED"}, Stand("jp3f9a1c is failed: AUTH_FAILED", failed=True)),
        ({"state": "draining"}, Stand("jp3f9a1c is draining", failed=True)),
        ({"state": None, "status": "running"}, Stand("jp3f9a1c serves from 198.18.10.11", done=True)),
    ],
)
def test_nodes(changes: dict[str, Any], stand: Stand) -> None:
    assert node_stand(node(**changes)) == stand


def test_pools() -> None:
    assert pool_stand(pool()) == Stand("jp: 1 of 1 serving", done=True)
    assert pool_stand(pool(desired=2, reason="no slot")) == Stand("jp: 1 of 2 serving: no slot")
    assert pool_stand(pool(desired=0, serving=0)) == Stand("jp: 0 of 0 serving, 1 to go")
    assert pool_stand(pool(desired=0, serving=0, nodes=[])).done


def test_rotations() -> None:
    assert rotation_stand(pool(), {"jp3f9a1c"}) == Stand("jp: 1 of 1 serving; 1 old left")
    assert rotation_stand(pool(nodes=["jp000001"]), {"jp3f9a1c"}).done
    assert not rotation_stand(pool(nodes=["jp000001"], serving=0), {"jp3f9a1c"}).done


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def test_until_outlives_an_api_that_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()

    def look() -> Mapping[str, Any]:
        if clock.now in (0.5, 1.0):
            raise UnreachableError("no answer")
        return node(state="serving" if clock.now >= 2 else "starting")

    document, stand = until(look, node_stand, 10, clock=clock, sleep=clock.sleep)
    assert stand.done
    assert document["state"] == "serving"
    assert capsys.readouterr().err.splitlines() == ["jp3f9a1c is starting", "no answer", "jp3f9a1c is starting"]


def test_until_ends_in_time_and_says_how_far_it_is() -> None:
    clock = Clock()
    with pytest.raises(ApiError, match=r"^after 3 s jp: 0 of 1 serving: no slot$"):
        until(lambda: pool(serving=0, reason="no slot"), pool_stand, 3, clock=clock, sleep=clock.sleep)
    assert clock.now == 3


def test_until_passes_on_a_refusal() -> None:
    def look() -> Mapping[str, Any]:
        raise ApiError("there is no node (404)", 404)

    with pytest.raises(ApiError, match="there is no node"):
        until(look, node_stand, 3)

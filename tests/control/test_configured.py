"""Nodes out of the configuration: they come and go with it, and tell no secret."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from control.api.views import node_view
from control.config import ControlSettings
from control.configured import NOT_VERIFIED, configured
from health.model import NodeKind, NodeStatus

JP = {"country": "jp", "url": "socks5://me@10.0.0.2:1080", "city": "Tokyo"}
UK = {"country": "uk", "url": "http://[2001:db8::1]:3128"}


def settings(*upstreams: dict[str, str], **fields: Any) -> ControlSettings:
    return ControlSettings.model_validate({"machine": "m1", "upstreams": upstreams, **fields})


def test_ids_last_and_differ() -> None:
    first, again = configured(settings(JP, UK, direct_nodes=["jp"]), 1), configured(settings(UK, JP), 2)
    assert len(first) == 3
    assert again.keys() < first.keys()
    others = [{**JP, "url": "socks5://me@10.0.0.3:1080"}, {**JP, "city": "Osaka"}]
    assert not configured(settings(*others), 1).keys() & first.keys()
    assert not configured(settings(JP, UK, machine="m2"), 1).keys() & first.keys()


def test_an_upstream_serves_unverified_and_says_so() -> None:
    node = next(node for node in configured(settings(JP), 7).values())
    assert (node.kind, node.status, node.machine) == (NodeKind.UPSTREAM, NodeStatus.SERVING, "m1")
    assert (node.country, node.city, node.upstream, node.started_at) == ("jp", "Tokyo", JP["url"], 7)
    assert (node.exit_ip, node.reason) == ("", NOT_VERIFIED)
    view = node_view(node, None, None)
    assert (view.kind, view.status, view.upstream) == ("upstream", "running", "socks5://10.0.0.2:1080")
    assert view.reason == NOT_VERIFIED
    assert "me@" not in str(view)


@pytest.mark.parametrize(
    ("upstreams", "said"),
    [
        ([JP, JP], "there twice"),
        ([{**JP, "country": "xx"}], "country"),
        ([{**JP, "url": "socks5://me:geheim@10.0.0.2:1080"}], "put it into the file"),
        ([{"country": "jp"}], "url"),
        ([{**JP, "password": "x"}], "password"),
    ],
)
def test_mistakes_are_told(upstreams: list[dict[str, str]], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        settings(*upstreams)
    assert said in str(refused.value.errors(include_input=False)) + str(refused.value)


async def test_they_come_and_go_with_the_configuration(new_control: Callable[..., Any]) -> None:
    async def kinds(control: Any) -> list[str]:
        await control.reconciler.tick()
        return sorted(f"{node.kind} {node.country}" for node in (await control.registry.nodes()).values())

    one = new_control(engine="none", direct_nodes=("zz",), upstreams=(JP, UK))
    await one.settle(lambda: _count(one, 3))
    assert await kinds(one) == ["direct zz", "upstream gb", "upstream jp"]
    await one.close()
    elsewhere = new_control(engine="none", machine="m2", upstreams=(JP,))
    await elsewhere.settle(lambda: _count(elsewhere, 4))
    await elsewhere.close()
    two = new_control(engine="none", upstreams=(UK,))
    await two.settle(lambda: _count(two, 2))
    assert await kinds(two) == ["upstream gb", "upstream jp"]
    left = {node.machine for node in (await two.registry.nodes()).values() if node.country == "jp"}
    assert left == {"m2"}


async def _count(control: Any, count: int) -> bool:
    return len(await control.registry.nodes()) == count

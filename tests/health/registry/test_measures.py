"""Samples and scores against a real Redis."""

from typing import Any

import pytest

from health.model import Sample, Score, Tunnel
from health.registry import PREFIX, Registry


def sample(node: str = "jp3f9a1c", **fields: Any) -> Sample:
    return Sample(node=node, at=5.0, reachable=True, tunnel=Tunnel.UP, kill_switch=True, **fields)


def score(node: str = "jp3f9a1c") -> Score:
    return Score(node=node, at=5.0, value=81.5, healthy=True, terms={"latency": 0.8}, latency_ms=40.0)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1"])
async def test_a_stored_sample_that_is_no_number_is_left_out(registry: Registry, raw: Any, number: str) -> None:
    text = sample().dump().replace('"loss":0.0', f'"loss":{number}')
    assert number in text
    raw.set(PREFIX + "sample:jp3f9a1c", text)
    assert await registry.samples(["jp3f9a1c"]) == {}


async def test_samples_expire_after_the_sign_of_life(registry: Registry, raw: Any) -> None:
    one, other = sample(probe_ms=31.5), sample("us000001")
    await registry.put_samples("m1", [one, other])
    assert await registry.samples([one.node, other.node, "gb000001"]) == {one.node: one, other.node: other}
    assert await registry.samples([]) == {}
    assert await registry.collectors(["m1", "m2"]) == {"m1"}
    assert await registry.collectors([]) == set()
    life, kept = raw.pttl(PREFIX + "lease:collector:m1"), raw.pttl(PREFIX + f"sample:{one.node}")
    assert 0 < life <= 4000 < kept <= 5000


async def test_a_collector_without_nodes_lives(registry: Registry) -> None:
    await registry.put_samples("m1", [])
    assert await registry.collectors(["m1"]) == {"m1"}


async def test_scores(registry: Registry, raw: Any) -> None:
    await registry.put_scores([score(), score("us000001")])
    assert await registry.scores(["jp3f9a1c", "gb000001"]) == {"jp3f9a1c": score()}
    assert 595 < raw.ttl(PREFIX + "score:jp3f9a1c") <= 600

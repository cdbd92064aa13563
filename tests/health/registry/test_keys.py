"""Every key is named in the package's docstring, and goes by itself when it is said to."""

from typing import Any

from health.registry import PREFIX, Registry
from health.report import Report
from health.speed import Result
from tests.health.registry.found_keys import named, wrong_keys
from tests.health.registry.test_outage import WRITES

# These remove what others wrote.
UNDOES = {"delete_node", "delete_user", "delete_token", "release_slot", "release"}


async def test_a_used_redis_holds_what_is_named_and_no_longer_than_said(registry: Registry, raw: Any) -> None:
    for name, call in WRITES.items():
        if name not in UNDOES | {"retire"}:
            await call(registry)
    await registry.accounts.take("main", 2, "jp3f9a1c", "jp1.test")
    await registry.accounts.rest("other", "AUTH_FAILED", 600)
    await registry.accounts.penalise("jp1.test")
    await registry.reports.put(Report(worker="0123456789abcdef", gateway="g1", nodes={}))
    test = await registry.speed.ask("m1", "jp3f9a1c", "jp")
    assert await registry.speed.take("m1", "c1", 30)
    assert await registry.speed.end("m1", Result(id=test.id, node=test.node, country="jp", download_mbps=90.0), "c1")
    await registry.speed.ask("m1", "jp3f9a1c", "jp")
    kinds = {key.removeprefix(PREFIX).split(":")[0] for key in raw.keys("*")}
    assert kinds <= {name.split(":")[0] for name in named()}
    assert len(kinds) >= 20, "the scenario leaves kinds of keys out"
    assert wrong_keys(raw.execute_command) == {}


def test_what_is_wrong_is_found(redis_url: str, raw: Any) -> None:
    raw.set("vx:1:sample:jp3f9a1c", "{}")
    raw.set("vx:1:score:jp3f9a1c", "{}", ex=3600)
    raw.set("vx:1:node:jp3f9a1c", "{}", ex=60)
    raw.set("vx:1:new", "{}")
    raw.set("vx:1:pool:jp", "{}")
    raw.set("vx:1:lease:collector:m1", "1", ex=4)
    assert wrong_keys(raw.execute_command) == {
        "vx:1:sample:jp3f9a1c": "stays for ever",
        "vx:1:score:jp3f9a1c": "stays 3600 s",
        "vx:1:node:jp3f9a1c": "stays 60 s",
        "vx:1:new": "not named",
    }

"""An account whose credentials the VPN servers refuse: real OpenVPN, told AUTH_FAILED by the lab's real servers."""

import asyncio
import json
import secrets
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from health.model import Node, NodeStatus
from health.registry import Registry
from tests.lab.harness import Lab, traffic, wait_for

ACCOUNT = "lab"
REST_S = 600
WATCHED_S = 10


class Credentials:
    """What the OpenVPN servers accept and what the provider hands out; the one and the other may be changed."""

    def __init__(self, state: Path) -> None:
        self._servers = sorted((state / "servers").glob("*/credentials"))
        self._world = state / "servers" / "api" / "world.json"
        self.username, self.password = self._servers[0].read_text().split()

    def accept(self, password: str) -> None:
        for path in self._servers:
            path.write_text(f"{self.username}\n{password}\n")

    def hand_out(self, password: str) -> None:
        world = json.loads(self._world.read_text())
        world["accounts"][0]["password"] = password
        self._world.write_text(json.dumps(world, indent=1))


@pytest.fixture
def credentials(lab: Lab) -> Credentials:
    return Credentials(Path(lab.status["state_dir"]))


async def test_refused_credentials_let_the_account_rest_and_serving_nodes_serve_on(
    lab: Lab, credentials: Credentials, registry: Registry, events: list[dict[str, Any]]
) -> None:
    """The provider resets the service credentials: what is connected stays, what starts anew is refused."""
    old, new = credentials.password, secrets.token_urlsafe(18)
    before, (victim,) = await registry.nodes(), lab.nodes("us")
    serving = [node for country in ("jp", "gb") for node in lab.nodes(country)]
    said, began = lab.log_of("control"), int(time.time())
    credentials.accept(new)
    async with traffic(lab, "jp", 1) as jp, traffic(lab, "gb", 1) as gb:
        await asyncio.to_thread(lab.docker, "kill", f"vpnexit-{victim}")
        refused = await _refused(registry, set(before))
        assert refused.reason == (
            f"the VPN server refused the credentials: AUTH_FAILED; account {ACCOUNT} starts no node for 10 min"
        )
        _, left = (await registry.accounts.read({ACCOUNT: 1})).resting[ACCOUNT]
        assert REST_S - 10 < left <= REST_S
        # No crash loop: nothing of this account starts any more, whoever asks, over whichever protocol.
        await asyncio.sleep(WATCHED_S)
        with pytest.raises(urllib.error.HTTPError) as told:
            await asyncio.to_thread(lab.api, "POST", "/api/nodes/jp/start")
        assert f"account {ACCOUNT} starts no node for another 9 min" in json.load(told.value)["detail"]
        assert await asyncio.to_thread(_started, lab, began) == [f"vpnexit-{refused.id}"]
        pool = await asyncio.to_thread(lab.api, "GET", "/api/pools/us")
        assert (pool["serving"], pool["desired"]) == (0, 1)
        assert f"account {ACCOUNT} starts no node" in pool["reason"]
    assert [node for country in ("jp", "gb") for node in lab.nodes(country)] == serving
    assert not jp.bad()
    assert not gb.bad()
    logged = said()
    _told_once(logged, events, refused)
    shown = [
        json.dumps(logged),
        json.dumps(events),
        *(json.dumps(lab.api("GET", f"/api/{what}")) for what in ("nodes", "pools")),
    ]
    shown.append(lab.api("GET", f"/api/nodes/{refused.id}/logs")["logs"])
    assert not [secret for secret in (old, new, credentials.username) if any(secret in text for text in shown)]

    # The provider hands out what its servers accept, and the rest is over: control asks it anew by itself.
    credentials.hand_out(new)
    await registry.accounts.rest(ACCOUNT, "over", 0.001)
    egress = lab.status["countries"]["us"]["egress"]
    await asyncio.to_thread(wait_for, lambda: lab.whoami("us") in egress, 30, "us serves again")
    # What still runs with the old ones is replaced, so that the lab is whole again.
    for node in lab.nodes("gb"):
        lab.api("POST", f"/api/nodes/{node}/restart")
    await asyncio.to_thread(wait_for, lab.settled, 60, "everything is settled")
    assert lab.nodes("jp") == [node for node in serving if node.startswith("jp")]


async def _refused(registry: Registry, known: set[str], within: float = 20.0) -> Node:
    """The node that was placed instead of the killed one, once it has failed."""
    deadline = time.monotonic() + within
    while True:
        found = [one for one in (await registry.nodes()).values() if one.id not in known]
        failed = [one for one in found if one.status is NodeStatus.FAILED]
        if failed:
            assert len(found) == 1, found
            return failed[0]
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)


def _started(lab: Lab, since: int) -> list[str]:
    """The exits that were started since then (Unix seconds), as Docker tells it."""
    until = str(int(time.time()) + 1)
    filters = ("--filter", "type=container", "--filter", "event=start", "--filter", "label=io.vpnexit.fleet")
    shown = ("--format", "{{.Actor.Attributes.name}}")
    return lab.docker("events", "--since", str(since), "--until", until, *shown, *filters).split()


def _told_once(logged: list[dict[str, Any]], events: list[dict[str, Any]], node: Node) -> None:
    rests = [one for one in logged if one.get("event") == "account_rests"]
    assert [(one["account"], one["node"], one["level"]) for one in rests] == [(ACCOUNT, node.id, "error")]
    ends = [one for one in logged if one.get("node") == node.id and one.get("status") == "failed"]
    assert [one["reason"] for one in ends] == [node.reason]
    published = [one for one in events if one["kind"] == "account"]
    assert [(one["subject"], one["node"], one["reason"]) for one in published] == [(ACCOUNT, node.id, node.reason)]
    failed = [one["reason"] for one in events if one.get("status") == "failed" and one["subject"] == node.id]
    assert failed == [node.reason]
    assert {one["subject"] for one in events if one["kind"] == "trouble"} == {"us"}

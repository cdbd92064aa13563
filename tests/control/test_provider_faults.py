"""The fault table, where the provider's API is out of order: the real provider against the lab's stand-in for the API.

Whatever the API does, what serves serves on, why nothing new starts is told in the pool, in the log and as an event,
and with the API the fleet heals. No secret is shown on the way.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from control.config import NordVpnAccount, NordVpnSettings
from control.providers.nordvpn import NordVpn
from deploy import ports
from deploy.lab import servers
from deploy.lab.inside.nordvpn_api import Api
from health.model import NodeStatus
from tests.control.conftest import Control
from tests.control.told import Told

CREDENTIALS = "/v1/users/services/credentials"
LISTS = ("/v1/servers", "/v1/servers/recommendations", "/v1/servers/countries")
WEB_PAGE = {"status": 200, "body": "<html>Just a moment...</html>", "headers": {"Content-Type": "text/html"}}


class Provider:
    """The stand-in's world in a file, what of it is out of order, and the fleet's provider that asks it."""

    def __init__(self, fleet: Control, directory: Path) -> None:
        self.account = servers.new_account()
        self.url = ""
        self.world = directory / "world.json"
        self._fleet = fleet
        self._directory = directory
        self._made: list[NordVpn] = []
        for name, text in (("token", self.account["token"]), ("ca.crt", "CA"), ("ta.key", "TA")):
            (directory / name).write_text(text)
            (directory / name).chmod(0o600)
        self.fault({}, ())

    def fault(self, fault: dict[str, Any], paths: tuple[str, ...]) -> None:
        world = servers.api_world(self.account, {}) | {"faults": dict.fromkeys(paths, fault)}
        self.world.write_text(json.dumps(world))

    def begin(self, url: str = "", timeout: float = 5.0) -> None:
        """Give the fleet a provider that was told nothing yet."""
        settings = NordVpnSettings(
            api_url=url or self.url,
            accounts=(NordVpnAccount(name="acct", token_file=self._directory / "token"),),
            ca_file=self._directory / "ca.crt",
            tls_auth_file=self._directory / "ta.key",
            timeout=timeout,
        )
        self._made.append(NordVpn(settings, None, self._fleet.world.clock, self._fleet.world.wall))
        self._fleet.placement._providers = {"nordvpn": self._made[-1]}

    async def close(self) -> None:
        for provider in self._made:
            await provider.close()


@pytest.fixture
async def api(fleet: Control, aiohttp_server: Any, tmp_path: Path) -> AsyncIterator[Provider]:
    found = Provider(fleet, tmp_path)
    server = await aiohttp_server(Api(found.world).application())
    found.url = str(server.make_url("")).rstrip("/")
    found.begin()
    yield found
    await found.close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"seconds": 2.0}, "did not answer in time"),
        ({"status": 500}, "answered 500"),
        ({"status": 429, "headers": {"Retry-After": "30"}}, "answered 429 (asked too often)"),
        (WEB_PAGE, "answered a web page that is not JSON"),
    ],
    ids=["slow", "down", "429", "HTML"],
)
async def test_an_api_out_of_order_starts_nothing_says_why_and_heals(
    fleet: Control, api: Provider, told: Told, fault: dict[str, Any], words: str
) -> None:
    await fleet.pool(1, "us")
    before = await fleet.serving("us")
    api.begin(timeout=0.3 if "seconds" in fault else 5.0)
    api.fault(fault, LISTS)
    await _starts_nothing_and_says_why(fleet, api, told, words)
    assert await fleet.serving("us") == before
    api.fault({}, ())
    fleet.world.ahead += 61
    await fleet.serving("us", 2)
    await told.caught_up()
    assert [one["subject"] for one in told.of("recovered")] == ["us"]


async def test_an_api_that_is_not_there_starts_nothing_and_says_why(fleet: Control, api: Provider, told: Told) -> None:
    await fleet.pool(1, "us")
    before = await fleet.serving("us")
    api.begin(f"http://127.0.0.1:{ports.free()}")
    await _starts_nothing_and_says_why(fleet, api, told, "Cannot connect to host 127.0.0.1")
    assert await fleet.serving("us") == before


async def _starts_nothing_and_says_why(fleet: Control, api: Provider, told: Told, words: str) -> None:
    with structlog.testing.capture_logs() as logged:
        await fleet.pool(2, "us")
        for _ in range(4):
            await fleet.later(1)
    assert words in fleet.reconciler.trouble("us")
    await told.caught_up()
    assert [one["subject"] for one in told.of("trouble")] == ["us"]
    assert words in await told.reason("trouble")
    assert [one["part"] for one in logged if one["event"] == "trouble"] == ["us"]
    assert any(words in one["reason"] for one in logged if one["event"] == "no_server")
    _shows_no_secret(api, logged, told.events)


async def test_without_credentials_a_node_fails_with_the_reason_and_the_next_one_serves(
    fleet: Control, api: Provider, told: Told
) -> None:
    api.fault({"status": 503}, (CREDENTIALS,))
    with structlog.testing.capture_logs() as logged:
        await fleet.pool(1, "us")
        for _ in range(4):
            await fleet.later(0.1)
    failed = [node for node in (await fleet.registry.nodes()).values() if node.status is NodeStatus.FAILED]
    reason = f"account acct: {CREDENTIALS} answered 503"
    await told.caught_up()
    assert {node.reason for node in failed} == {reason}
    assert {one["reason"] for one in told.of("node") if one["status"] == "failed"} == {reason}
    assert {one["reason"] for one in logged if one.get("status") == "failed"} == {reason}
    assert fleet.world.engine.calls.count("create") == 0
    _shows_no_secret(api, logged, told.events)
    api.fault({}, ())
    fleet.world.ahead += 61
    await fleet.serving("us")


def _shows_no_secret(api: Provider, *shown: Any) -> None:
    text = json.dumps(shown)
    assert not [name for name, secret in api.account.items() if secret in text]

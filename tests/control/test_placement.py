"""Placing nodes with the true provider, against a stand-in of its API with every fault: what runs goes on running."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from control.config import NordVpnAccount, NordVpnSettings
from control.placement import Placement
from control.providers import ProviderError, Wish
from control.providers.kept import FRESH_S, RETRY_S
from control.providers.nordvpn import NordVpn
from deploy.lab.inside.nordvpn_api import Api
from health.model import Node, NodeKind, NodeStatus, Pool, Protocol
from health.registry import Registry
from tests.control.providers.test_servers import world as many_countries

CREDENTIALS = "/v1/users/services/credentials"
LISTS = ("/v1/servers", "/v1/servers/countries", "/v1/servers/recommendations")
FAULTS: dict[str, dict[str, Any]] = {
    "down": {"status": 500},
    "slow": {"seconds": 20},
    "asked too often": {"status": 429, "headers": {"Retry-After": "600"}},
    "a web page": {"status": 200, "body": "<html>log in to this hotspot</html>"},
    "elsewhere": {"status": 302, "headers": {"Location": "http://198.18.0.1/"}},
    "empty": {"status": 200, "body": "[]", "headers": {"Content-Type": "application/json"}},
    "nonsense": {"status": 200, "body": '[{"hostname": 5}, null]', "headers": {"Content-Type": "application/json"}},
}


class Outside:
    """The provider's API, by its file. It stands before the fleet, so that the fleet is made with its provider."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ahead = 0.0
        self.change(**many_countries() | {"accounts": [self._account("the-token-of-main")]})

    def change(self, **fields: Any) -> None:
        told = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.path.write_text(json.dumps({**told, **fields}))

    def servers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.path.read_text())["servers"]
        return found

    def clock(self) -> float:
        return self.ahead

    @staticmethod
    def _account(token: str) -> dict[str, Any]:
        return {"token": token, "username": "svc", "password": "pass", "nordlynx_private_key": ""}


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    (tmp_path / "api").mkdir()
    return Outside(tmp_path / "api" / "world.json")


@pytest.fixture
async def provider(
    request: pytest.FixtureRequest, outside: Outside, tmp_path: Path, aiohttp_server: Any, world: Any
) -> AsyncIterator[NordVpn]:
    slow = hasattr(request.node, "callspec") and request.node.callspec.params.get("fault") == "slow"
    server = await aiohttp_server(Api(outside.path).application())
    for name, text in (("token", "the-token-of-main\n"), ("ca.pem", "CA")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    account = NordVpnAccount(name="main", token_file=tmp_path / "token", slots=4)
    settings = NordVpnSettings(
        api_url=str(server.make_url("")),
        accounts=(account,),
        ca_file=tmp_path / "ca.pem",
        timeout=0.5 if slow else 5.0,
    )
    found = NordVpn(settings, tmp_path / "kept", outside.clock)
    world.provider = found
    yield found
    await found.close()


@pytest.fixture
def fleet(provider: NordVpn, new_control: Callable[..., Any]) -> Any:
    return new_control()


async def running(fleet: Any) -> dict[str, str]:
    return {n.id: n.vpn_server for n in (await fleet.registry.nodes()).values() if n.status is NodeStatus.SERVING}


async def rounds(fleet: Any, count: int) -> None:
    for _ in range(count):
        fleet.world.ahead += 0.5
        await fleet.reconciler.tick()
        await fleet.reconciler.settle()


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_api_in_trouble_changes_nothing_that_runs_and_new_nodes_start(
    fleet: Any, outside: Outside, fault: str
) -> None:
    await fleet.pool(1)
    await fleet.pool(1, "gb")
    (japanese,), (british,) = await fleet.serving(), await fleet.serving("gb")
    assert british.vpn_server.startswith("uk")
    fleet.placement.moved({japanese.id: japanese})
    await fleet.placement.provider("nordvpn").choose(Wish("us", Protocol.OPENVPN_UDP), [], {}, {})
    outside.change(faults=dict.fromkeys((*LISTS, CREDENTIALS), FAULTS[fault]))
    outside.ahead = FRESH_S + 1
    await rounds(fleet, 3)
    await fleet.pool(1, "us")
    (american,) = await fleet.serving("us", within=30)
    assert american.vpn_server.startswith("us")
    outside.ahead += RETRY_S
    await rounds(fleet, 3)
    assert set(await running(fleet)) == {japanese.id, british.id, american.id}


async def test_half_a_list_changes_nothing_and_a_new_address_replaces_its_node_alone(
    fleet: Any, outside: Outside
) -> None:
    await fleet.pool(1)
    await fleet.pool(1, "gb")
    (old,), (beside,) = await fleet.serving(), await fleet.serving("gb")
    whole = outside.servers()
    moved = [one | {"station": "198.18.77.7"} if one["hostname"] == old.vpn_server else one for one in whole]
    outside.change(servers=[one for one in moved if one["country"] == "JP"])
    outside.ahead += FRESH_S + 1
    await rounds(fleet, 5)
    assert set(await running(fleet)) == {old.id, beside.id}
    outside.change(servers=moved)
    outside.ahead += RETRY_S + 1

    async def replaced() -> bool:
        fleet.world.ahead += 0.5
        found = await fleet.registry.node(old.id)
        return found is None or found.status.ended

    await fleet.settle(replaced, within=30)
    ended = await fleet.registry.node(old.id)
    assert "has another address by now: 198.18.77.7" in ended.reason
    (heir,) = await fleet.serving()
    assert heir.id != old.id
    assert beside.id in await running(fleet)


async def test_the_account_is_never_over_its_sessions_and_says_so(fleet: Any) -> None:
    for country in ("jp", "gb", "us"):
        await fleet.pool(2, country)
    await rounds(fleet, 25)
    assert len(fleet.world.engine.running) == 4
    why = "".join(fleet.reconciler.trouble(country) for country in ("jp", "gb", "us"))
    assert "no account takes a node: account main: 4 of 4 sessions are in use" in why
    nodes = [node for node in (await fleet.registry.nodes()).values() if not node.status.ended]
    assert len({node.vpn_server for node in nodes}) == 4


async def test_a_token_that_is_taken_away_or_bad_stops_nobody_and_is_told(fleet: Any, tmp_path: Path) -> None:
    await fleet.pool(1)
    (node,) = await fleet.serving()
    (tmp_path / "token").unlink()
    await fleet.pool(1, "gb")
    await rounds(fleet, 5)
    assert "account main: token file" in fleet.reconciler.trouble("gb")
    assert "No such file" in fleet.reconciler.trouble("gb")
    (tmp_path / "token").write_text("a-token-that-is-refused")
    (tmp_path / "token").chmod(0o600)
    await rounds(fleet, 40)
    assert "the provider refuses its token" in fleet.reconciler.trouble("gb")
    assert "a-token" not in fleet.reconciler.trouble("gb")
    assert set(await running(fleet)) == {node.id}
    (tmp_path / "token").write_text("the-token-of-main")
    await fleet.later(61)
    await fleet.serving("gb", within=30)


async def test_virtual_nodes_are_marked(fleet: Any) -> None:
    await fleet.pool(1, "in")
    await fleet.pool(1)
    assert [node.virtual for node in await fleet.serving("in")] == [True]
    assert [node.virtual for node in await fleet.serving()] == [False]


async def test_a_provider_that_is_not_there_is_told(registry: Registry) -> None:
    placement = Placement(registry, {}, "m1", str)
    with pytest.raises(ProviderError, match="there is no provider 'custom'; there are: none; `custom` comes with"):
        await placement.place("jp-0", Pool(country="jp", provider="custom"), "")
    assert placement.moved({}) == {}
    assert placement.limits() == {}


async def test_nodes_of_unknown_accounts_are_passed_over(fleet: Any) -> None:
    fields = {"country": "jp", "kind": NodeKind.VPN, "machine": "m1", "status": NodeStatus.SERVING}
    node = Node(id="jp0000aa", account="gone", vpn_server="x.y", **fields)
    assert fleet.placement.moved({node.id: node}) == {}

"""The provider against a stand-in with the true API's paths and fields."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from control.config import NordVpnAccount, NordVpnSettings
from control.providers import Choice, Closed, NoSlotError, ProviderError, Wish
from control.providers.nordvpn import NordVpn
from health.agent.protocol import VPN_UID
from health.model import Node, NodeKind, NodeStatus, Protocol

KEY = base64.b64encode(bytes(32)).decode()
TOKEN = "e9f2abtoken"


def described(number: int, code: str = "JP", city: str = "Tokyo", load: int = 20, **changes: Any) -> dict[str, Any]:
    technologies = [
        {"id": 3, "identifier": "openvpn_udp", "metadata": [], "pivot": {"status": "online"}},
        {"id": 5, "identifier": "openvpn_tcp", "metadata": [], "pivot": {"status": "online"}},
        {
            "id": 35,
            "identifier": "wireguard_udp",
            "metadata": [{"name": "public_key", "value": KEY}],
            "pivot": {"status": "online"},
        },
    ]
    country = {"id": {"JP": 108, "GB": 227}[code], "name": code, "code": code, "city": {"id": 1, "name": city}}
    prefix = {"JP": "jp", "GB": "uk"}[code]
    return {
        "id": number,
        "hostname": f"{prefix}{number}.nordvpn.example",
        "station": f"198.18.10.{number}",
        "load": load,
        "status": "online",
        "locations": [{"country": country}],
        "technologies": technologies,
        "specifications": [],
        **changes,
    }


EVERYTHING = {
    f"/v1/{path}" for path in ("servers/recommendations", "servers", "servers/countries", "users/services/credentials")
}


class StandIn:
    """The API's paths; `broken` ones answer 500, `asked` counts."""

    def __init__(self) -> None:
        self.servers = [described(1, load=30), described(2, load=10), described(3, "GB", "London")]
        self.recommended: list[dict[str, Any]] | None = None
        self.broken: set[str] = set()
        self.asked: list[str] = []
        self.slow = False
        self.too_often = False
        self.raw: bytes | None = None
        self.url = ""

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.slow:
            await asyncio.sleep(30)
        if self.too_often:
            return web.Response(status=429, headers={"Retry-After": "100"})
        if request.path in self.broken:
            return web.Response(status=500)
        if self.raw is not None:
            return web.Response(body=self.raw, content_type="application/json")
        match request.path:
            case "/v1/servers/countries":
                return web.json_response([{"id": 108, "code": "JP"}, {"id": 227, "code": "GB"}, {"id": 0, "code": "?"}])
            case "/v1/servers/recommendations":
                assert request.query["filters[servers_technologies][identifier]"] in ("openvpn_udp", "wireguard_udp")
                country = int(request.query["filters[country_id]"])
                found = self.servers if self.recommended is None else self.recommended
                return web.json_response([s for s in found if s["locations"][0]["country"]["id"] == country])
            case "/v1/servers":
                assert request.query["limit"] == "0"
                return web.json_response(self.servers)
            case "/v1/users/services/credentials":
                expected = "Basic " + base64.b64encode(f"token:{TOKEN}".encode()).decode()
                if request.headers.get("Authorization") != expected:
                    return web.json_response({"errors": {"code": 101301, "message": "Unauthorized"}}, status=401)
                return web.json_response({"username": "svc", "password": "pass", "nordlynx_private_key": KEY})
        return web.Response(status=404)


@pytest.fixture
async def stand_in(aiohttp_server: Any) -> StandIn:
    found = StandIn()
    server = await aiohttp_server(found.application())
    found.url = str(server.make_url("")).rstrip("/")
    return found


@pytest.fixture
async def new_provider(stand_in: StandIn, tmp_path: Path) -> AsyncIterator[Callable[..., NordVpn]]:
    made: list[NordVpn] = []
    for name, text in (("token", TOKEN + "\n"), ("ca.crt", "CA"), ("ta.key", "TA")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)

    def make(clock: Callable[[], float] | None = None, directory: Path | None = None, **changes: Any) -> NordVpn:
        settings = {
            "api_url": stand_in.url,
            "accounts": (NordVpnAccount(name="one", token_file=tmp_path / "token", slots=3),),
            "ca_file": tmp_path / "ca.crt",
            "tls_auth_file": tmp_path / "ta.key",
            **changes,
        }
        more = {"clock": clock} if clock else {}
        made.append(NordVpn(NordVpnSettings.model_validate(settings), directory, **more))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(new_provider: Callable[..., NordVpn]) -> NordVpn:
    return new_provider()


def wish(country: str = "jp", protocol: Protocol = Protocol.OPENVPN_UDP, **more: str) -> Wish:
    return Wish(country, protocol, **more)


def using(server: str = "", account: str = "one", number: int = 1, **fields: Any) -> Node:
    return Node(
        id=f"jp{number:06x}",
        country="jp",
        kind=NodeKind.VPN,
        machine="m",
        status=NodeStatus.SERVING,
        account=account,
        vpn_server=server,
        **fields,
    )


async def choose(
    provider: NordVpn,
    wished: Wish,
    others: Iterable[Node] = (),
    avoid: Collection[str] = (),
    closed: dict[str, Closed] | None = None,
) -> Choice:
    return await provider.choose(wished, others, dict.fromkeys(avoid, 1.0), closed or {})


async def until(condition: Callable[[], Any]) -> None:
    """What happens behind the provider is done once `condition` holds."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_the_first_recommendation_is_chosen(provider: NordVpn) -> None:
    choice = await choose(provider, wish(), [])
    assert (choice.account, choice.server, choice.city) == ("one", "jp1.nordvpn.example", "Tokyo")
    assert choice.endpoint == "198.18.10.1:1194/udp"


@pytest.mark.parametrize(
    ("protocol", "endpoint"),
    [(Protocol.WIREGUARD, "198.18.10.1:51820/udp"), (Protocol.OPENVPN_TCP, "198.18.10.1:443/tcp")],
)
async def test_each_protocol_has_its_port(
    provider: NordVpn, stand_in: StandIn, protocol: Protocol, endpoint: str
) -> None:
    stand_in.broken.add("/v1/servers/recommendations")
    stand_in.servers = stand_in.servers[:1]
    assert (await choose(provider, wish(protocol=protocol), [])).endpoint == endpoint


async def test_great_britain_is_gb_with_host_names_in_uk(provider: NordVpn) -> None:
    assert (await choose(provider, wish("gb"), [])).server == "uk3.nordvpn.example"


async def test_a_server_serves_one_node_of_an_account(new_provider: Callable[..., NordVpn], tmp_path: Path) -> None:
    two = [NordVpnAccount(name=name, token_file=tmp_path / "token", slots=3) for name in ("one", "two")]
    provider = new_provider(accounts=tuple(two))
    assert (await choose(provider, wish(), [using("jp1.nordvpn.example")])).server == "jp2.nordvpn.example"
    assert (await choose(provider, wish(), [using(endpoint="198.18.10.1:1194/udp")])).server == "jp2.nordvpn.example"
    assert (await choose(provider, wish(), [using("jp1.nordvpn.example", "two")])).server == "jp1.nordvpn.example"
    with pytest.raises(NoSlotError, match="no free openvpn_udp server in jp: all are in use"):
        await choose(provider, wish(), [using(f"jp{n}.nordvpn.example", a) for n in (1, 2) for a in ("one", "two")])


async def test_servers_that_failed_lately_come_last(provider: NordVpn, stand_in: StandIn) -> None:
    one, two = "jp1.nordvpn.example", "jp2.nordvpn.example"
    assert (await choose(provider, wish(), [], {one})).server == two
    stand_in.recommended = stand_in.servers[:1]
    assert (await choose(provider, wish(), [], {one})).server == two
    assert (await choose(provider, wish(), [], {one, two})).server == one
    assert (await choose(provider, wish(), [using(two)], {one})).server == one


async def test_accounts_are_filled_one_after_the_other(new_provider: Callable[..., NordVpn], tmp_path: Path) -> None:
    accounts = [NordVpnAccount(name=name, token_file=tmp_path / "token", slots=1) for name in ("one", "two")]
    provider = new_provider(accounts=tuple(accounts))
    assert (await choose(provider, wish(), [using("x.y")])).account == "two"
    with pytest.raises(NoSlotError, match=r"account one: 1 of 1 .*; account two: 1 of 1 sessions are in use"):
        await choose(provider, wish(), [using("x.y"), using("y.x", "two", 2)])
    with pytest.raises(ProviderError, match="no account is configured"):
        await choose(new_provider(accounts=()), wish(), [])


async def test_no_recommendation_falls_back_to_the_list_least_loaded_first(
    provider: NordVpn, stand_in: StandIn
) -> None:
    stand_in.recommended = []
    assert (await choose(provider, wish(), [])).server == "jp2.nordvpn.example"


async def test_a_broken_api_falls_back_to_the_last_good_copy(provider: NordVpn, stand_in: StandIn) -> None:
    await choose(provider, wish(), [])
    stand_in.broken |= {"/v1/servers/recommendations", "/v1/servers", "/v1/servers/countries"}
    assert (await choose(provider, wish(), [])).server == "jp2.nordvpn.example"
    assert await provider.countries() == ("gb", "jp")
    assert "jp2.nordvpn.example" in (await provider.servers())["jp"]


async def test_a_slow_api_holds_up_one_choice_and_no_other(
    new_provider: Callable[..., NordVpn], stand_in: StandIn
) -> None:
    provider = new_provider(timeout=1.0)
    await choose(provider, wish(server="jp1.nordvpn.example"))
    await choose(provider, wish())
    stand_in.slow = True
    began = time.monotonic()
    assert (await choose(provider, wish())).server == "jp2.nordvpn.example"
    assert 0.9 < time.monotonic() - began < 10
    began = time.monotonic()
    for _ in range(20):
        await choose(provider, wish())
    assert time.monotonic() - began < 20 * 1.0 / 2  # not one of them waited


async def test_an_api_that_is_asked_too_often_is_left_in_peace(
    new_provider: Callable[..., NordVpn], stand_in: StandIn
) -> None:
    now = [0.0]
    provider = new_provider(clock=lambda: now[0])
    await choose(provider, wish(server="jp1.nordvpn.example"))
    await choose(provider, wish())
    stand_in.too_often, asked = True, len(stand_in.asked)
    for _ in range(5):
        assert (await choose(provider, wish())).server == "jp2.nordvpn.example"
    assert len(stand_in.asked) == asked + 1
    stand_in.too_often, now[0] = False, 100.0
    assert (await choose(provider, wish())).server == "jp1.nordvpn.example"


async def test_an_api_that_never_answered_is_told(provider: NordVpn, stand_in: StandIn) -> None:
    stand_in.broken |= {"/v1/servers/recommendations", "/v1/servers", "/v1/servers/countries"}
    with pytest.raises(ProviderError, match="/v1/servers answered 500"):
        await choose(provider, wish(), [])
    with pytest.raises(ProviderError, match="countries answered 500"):
        await provider.countries()
    with pytest.raises(ProviderError, match="/v1/servers answered 500"):
        await provider.servers()


async def test_an_api_that_is_not_there_is_told(new_provider: Callable[..., NordVpn], unused_tcp_port: int) -> None:
    provider = new_provider(api_url=f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(ProviderError, match=r"/v1/servers.* failed: Cannot connect"):
        await choose(provider, wish(), [])


@pytest.mark.parametrize("raw", [b"{", b"[" * 100_000, b"{}", b"[1, null, {}]", b'"x"', b"null"])
async def test_nonsense_is_told(provider: NordVpn, stand_in: StandIn, raw: bytes) -> None:
    stand_in.raw = raw
    with pytest.raises(ProviderError):
        await choose(provider, wish(), [])


async def test_a_server_or_city_may_be_asked_for(provider: NordVpn) -> None:
    assert (await choose(provider, wish(server="JP2.nordvpn.example"), [])).server == "jp2.nordvpn.example"
    assert (await choose(provider, wish("gb", city="london"), [])).city == "London"
    with pytest.raises(ProviderError, match=r"in jp uk3\.nordvpn\.example"):
        await choose(provider, wish(server="uk3.nordvpn.example"), [])
    with pytest.raises(ProviderError, match=r"in jp Osaka$") as caught:
        await choose(provider, wish(city="Osaka"), [])
    assert not isinstance(caught.value, NoSlotError)


async def test_the_list_is_asked_once_an_hour(new_provider: Callable[..., NordVpn], stand_in: StandIn) -> None:
    now = [0.0]
    provider = new_provider(clock=lambda: now[0])
    for _ in range(3):
        await choose(provider, wish(server="jp2.nordvpn.example"), [])
    assert stand_in.asked.count("/v1/servers") == 1
    now[0] = 3600.0
    await choose(provider, wish(server="jp2.nordvpn.example"), [])
    await until(lambda: stand_in.asked.count("/v1/servers") == 2)


async def test_the_list_is_fetched_behind_recommendations(provider: NordVpn, stand_in: StandIn) -> None:
    await choose(provider, wish())
    await until(lambda: provider.moved({}) == {} and stand_in.asked.count("/v1/servers") == 1)
    stand_in.broken |= EVERYTHING
    assert (await choose(provider, wish("gb"))).server == "uk3.nordvpn.example"


@pytest.mark.parametrize("away", ["broken", "html", "half"])
async def test_a_restart_while_the_api_is_away_uses_what_is_on_disk(
    new_provider: Callable[..., NordVpn], stand_in: StandIn, tmp_path: Path, away: str
) -> None:
    node = using("jp2.nordvpn.example", protocol=Protocol.OPENVPN_UDP, endpoint="198.18.10.2:1194/udp")
    first = new_provider(directory=tmp_path / "kept")
    await choose(first, wish(server="jp1.nordvpn.example"))
    before = await first.material(node)
    if away == "broken":
        stand_in.broken |= EVERYTHING
    elif away == "html":
        stand_in.raw = b"<html>sorry</html>"
    else:
        stand_in.servers, stand_in.recommended = stand_in.servers[2:], []
    again = new_provider(directory=tmp_path / "kept")
    assert (await choose(again, wish())).server == "jp2.nordvpn.example"
    assert await again.countries() == ("gb", "jp")
    assert (await again.material(node)).files == before.files
    for kept in (tmp_path / "kept").iterdir():
        assert kept.stat().st_mode & 0o777 == 0o600
        assert TOKEN not in kept.read_text()


async def test_virtual_servers_are_told_and_come_after_true_ones(provider: NordVpn, stand_in: StandIn) -> None:
    virtual = {"specifications": [{"identifier": "virtual_location", "values": [{"value": "true"}]}]}
    stand_in.servers = [described(1, load=1, **virtual), described(2, load=90)]
    stand_in.recommended = stand_in.servers[:1]
    choice = await choose(provider, wish())
    assert (choice.server, choice.virtual) == ("jp2.nordvpn.example", False)
    choice = await choose(provider, wish(), [using("jp2.nordvpn.example")])
    assert (choice.server, choice.virtual) == ("jp1.nordvpn.example", True)
    assert (await choose(provider, wish(server="jp1.nordvpn.example"))).virtual
    assert (await choose(provider, wish(), avoid={"jp2.nordvpn.example"})).virtual


async def test_an_account_that_rests_or_has_no_token_is_passed_over(
    new_provider: Callable[..., NordVpn], tmp_path: Path
) -> None:
    names = ("one", "two", "three")
    (tmp_path / "world").write_text(TOKEN)
    (tmp_path / "world").chmod(0o644)
    files = (tmp_path / "token", tmp_path / "world", tmp_path / "token")
    accounts = [NordVpnAccount(name=n, token_file=f, slots=3) for n, f in zip(names, files, strict=True)]
    provider = new_provider(accounts=tuple(accounts))
    rests = {"one": Closed("account one rests")}
    assert (await choose(provider, wish(), closed=rests)).account == "three"
    assert (await choose(provider, wish())).account == "one"
    with pytest.raises(ProviderError, match=r"one rests; account two: .*chmod 600.*; account three rests") as caught:
        await choose(provider, wish(), closed=rests | {"three": Closed("account three rests")})
    assert not isinstance(caught.value, NoSlotError)


async def test_a_country_whose_servers_one_account_uses_is_served_by_another(
    new_provider: Callable[..., NordVpn], tmp_path: Path
) -> None:
    accounts = [NordVpnAccount(name=name, token_file=tmp_path / "token", slots=3) for name in ("one", "two")]
    provider = new_provider(accounts=tuple(accounts))
    assert (await choose(provider, wish("gb"), [using("uk3.nordvpn.example")])).account == "two"


async def test_a_node_whose_server_has_another_address_by_now_is_told(
    new_provider: Callable[..., NordVpn], stand_in: StandIn
) -> None:
    now = [0.0]
    provider = new_provider(clock=lambda: now[0])
    there = using("jp1.nordvpn.example", endpoint="198.18.10.1:1194/udp")
    foreign = using("jp2.nordvpn.example", "other", 2, endpoint="198.18.10.77:1194/udp")
    unlisted = using("jp9.nordvpn.example", number=3, endpoint="198.18.10.9:1194/udp")
    nodes = {node.id: node for node in (there, foreign, unlisted)}
    assert provider.moved(nodes) == {}
    await until(lambda: "/v1/servers" in stand_in.asked)
    await provider.servers()  # and answered
    stand_in.servers[0]["station"] = "198.18.10.99"
    assert provider.moved(nodes) == {}
    now[0] = 3601.0
    provider.moved(nodes)
    await until(lambda: provider.moved(nodes))
    assert provider.moved(nodes) == {there.id: "jp1.nordvpn.example has another address by now: 198.18.10.99"}


async def test_without_nodes_of_its_own_nothing_is_asked(provider: NordVpn, stand_in: StandIn) -> None:
    foreign = using("jp1.nordvpn.example", "other")
    assert provider.moved({foreign.id: foreign}) == {}
    await asyncio.sleep(0)
    assert stand_in.asked == []


@pytest.mark.parametrize("nonsense", [b"<html>", b"[]", b"[{}]", b"{}", b'[{"hostname": "jp1.nordvpn.example"}]'])
async def test_nonsense_moves_nobody(new_provider: Callable[..., NordVpn], stand_in: StandIn, nonsense: bytes) -> None:
    now = [0.0]
    provider = new_provider(clock=lambda: now[0])
    node = using("jp1.nordvpn.example", endpoint="198.18.10.1:1194/udp")
    await choose(provider, wish(server="jp1.nordvpn.example"))
    stand_in.raw, now[0] = nonsense, 3601.0
    asked = len(stand_in.asked)
    assert provider.moved({node.id: node}) == {}
    await until(lambda: len(stand_in.asked) > asked)
    assert provider.moved({node.id: node}) == {}
    assert (await choose(provider, wish(server="jp1.nordvpn.example"))).address == "198.18.10.1"


async def test_wireguard_material(provider: NordVpn) -> None:
    node = using("jp2.nordvpn.example", protocol=Protocol.WIREGUARD, endpoint="198.18.10.2:51820/udp")
    material = await provider.material(node)
    assert material.dns == ("103.86.96.100", "103.86.99.100")
    assert (material.address, material.server_public_key) == ("10.5.0.2/32", KEY)
    (secret,) = material.files
    assert (secret.name, secret.uid, secret.content) == ("wg.key", 0, KEY.encode() + b"\n")
    assert KEY not in repr(material.files)


async def test_openvpn_material(provider: NordVpn) -> None:
    node = using("jp2.nordvpn.example", protocol=Protocol.OPENVPN_TCP, endpoint="198.18.10.2:443/tcp")
    material = await provider.material(node)
    files = {secret.name: secret.content for secret in material.files}
    assert {secret.uid for secret in material.files} == {VPN_UID}
    assert files["auth.txt"] == b"svc\npass\n"
    assert (files["ca.crt"], files["ta.key"]) == (b"CA", b"TA")
    lines = files["client.ovpn"].decode().splitlines()
    for line in (
        *(
            "proto tcp4-client",
            "remote 198.18.10.2 443",
            "auth SHA512",
            "data-ciphers AES-256-GCM",
            "tls-auth ta.key 1",
        ),
        *("verify-x509-name CN=jp2.nordvpn.example", "remote-cert-tls server", "auth-user-pass auth.txt", "ca ca.crt"),
    ):
        assert line in lines


async def test_openvpn_without_tls_auth_or_authority(new_provider: Callable[..., NordVpn]) -> None:
    node = using("jp2.nordvpn.example", protocol=Protocol.OPENVPN_UDP, endpoint="198.18.10.2:1194/udp")
    material = await new_provider(tls_auth_file=None).material(node)
    assert b"tls-auth" not in next(s.content for s in material.files if s.name == "client.ovpn")
    with pytest.raises(ProviderError, match="ca_file is not set"):
        await new_provider(ca_file=None).material(node)


async def test_a_refused_token_is_told_without_being_shown(
    new_provider: Callable[..., NordVpn], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("another-token")
    node = using("jp2.nordvpn.example", protocol=Protocol.OPENVPN_UDP, endpoint="198.18.10.2:1194/udp")
    with pytest.raises(ProviderError, match="account one: the provider refuses its token") as caught:
        await new_provider().material(node)
    assert "another-token" not in str(caught.value)
    with pytest.raises(ProviderError, match="not configured any more"):
        await new_provider().material(node.model_copy(update={"account": "gone"}))


async def test_a_node_that_is_younger_than_the_list_is_not_judged_by_it(
    new_provider: Callable[..., NordVpn], stand_in: StandIn
) -> None:
    provider = new_provider()
    there = using("jp1.nordvpn.example", endpoint="198.18.10.99:1194/udp")
    young = there.model_copy(update={"requested_at": time.time() + 60})
    await until(lambda: provider.moved({there.id: there}))
    assert provider.moved({young.id: young}) == {}

"""The provider of a folder of VPN files."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from control.config import CustomSettings
from control.providers import Choice, Closed, NoSlotError, ProviderError, Wish, split_endpoint
from control.providers.custom import Custom
from control.providers.lookups import AGAIN_S
from health.agent import nodefile, openvpn_config
from health.agent.protocol import VPN_UID
from health.model import Node, NodeKind, NodeStatus, Protocol

PEM = "-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n"
WG_KEY = base64.b64encode(b"p" * 32).decode()
NAMES = {
    "jp1.vpn.example": ["198.18.0.1"],
    "jp2.vpn.example": ["198.18.0.2", "198.18.0.22"],
    "alias.vpn.example": ["198.18.0.1"],
    "us1.vpn.example": ["198.18.0.31"],
}


def openvpn(host: str, proto: str = "udp", port: int = 1194) -> str:
    return f"client\nremote {host} {port} {proto}\nauth-user-pass\nauth SHA256\n<ca>\n{PEM}</ca>\n"


def wireguard(host: str, dns: str = "DNS = 10.0.0.1\n") -> str:
    return (
        f"[Interface]\nPrivateKey = {WG_KEY}\nAddress = 10.9.0.2/32\n{dns}"
        f"[Peer]\nPublicKey = {WG_KEY}\nAllowedIPs = 0.0.0.0/0\nEndpoint = {host}:51820\n"
    )


def put(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def resolve(host: str) -> list[str]:
    if host not in NAMES:
        raise OSError(-2, "Name or service not known")
    return NAMES[host]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    put(tmp_path / "auth.txt", "user\npass\n")
    put(tmp_path / "jp-tokyo-1.ovpn", openvpn("jp1.vpn.example"))
    put(tmp_path / "jp-tokyo-1-tcp.ovpn", openvpn("jp1.vpn.example", "tcp", 443))
    put(tmp_path / "jp-osaka-2.ovpn", openvpn("jp2.vpn.example"))
    put(tmp_path / "us" / "new-york.conf", wireguard("198.18.0.31"))
    return tmp_path


@pytest.fixture
async def provider(top: Path) -> AsyncIterator[Custom]:
    found = Custom(CustomSettings(slots=2), top, Clock(), resolve)
    yield found
    await found.close()


def wish(country: str = "jp", protocol: Protocol = Protocol.OPENVPN_UDP, **more: str) -> Wish:
    return Wish(country, protocol, **more)


async def choose(
    provider: Custom,
    wished: Wish,
    others: Iterable[Node] = (),
    avoid: Iterable[str] = (),
    closed: dict[str, Closed] | None = None,
) -> Choice:
    return await provider.choose(wished, list(others), dict.fromkeys(avoid, 1.0), closed or {})


def node(choice: Choice, protocol: Protocol = Protocol.OPENVPN_UDP, number: int = 1, country: str = "jp") -> Node:
    return Node(
        id=f"{country}{number:06x}",
        country=country,
        kind=NodeKind.VPN,
        machine="m",
        status=NodeStatus.SERVING,
        provider="custom",
        account=choice.account,
        protocol=protocol,
        vpn_server=choice.server,
        endpoint=choice.endpoint,
    )


async def test_names_become_numbers(provider: Custom) -> None:
    choice = await choose(provider, wish(city="osaka"))
    assert (choice.account, choice.server, choice.city) == ("custom-auth.txt", "jp2.vpn.example", "Osaka")
    assert choice.endpoint == "198.18.0.2:1194/udp"
    assert (await choose(provider, wish(protocol=Protocol.OPENVPN_TCP))).endpoint == "198.18.0.1:443/tcp"
    choice = await choose(provider, wish("us", Protocol.WIREGUARD))
    assert choice.endpoint == "198.18.0.31:51820/udp"
    assert await provider.countries() == ("jp", "us")
    assert "jp2.vpn.example" in (await provider.servers())["jp"]


@pytest.mark.parametrize("server", ["jp-osaka-2", "JP-Osaka-2.ovpn", "jp2.vpn.example"])
async def test_a_server_may_be_asked_for_by_file_or_name(provider: Custom, server: str) -> None:
    assert (await choose(provider, wish(server=server))).server == "jp2.vpn.example"


async def test_two_files_of_one_server_are_not_used_at_once(provider: Custom, top: Path) -> None:
    first = await choose(provider, wish(city="tokyo"))
    put(top / "jp-other.ovpn", openvpn("jp1.vpn.example", port=1195))
    put(top / "jp-alias.ovpn", openvpn("alias.vpn.example"))
    put(top / "jp-number.ovpn", openvpn("198.18.0.1"))
    second = await choose(provider, wish(), [node(first)])
    assert second.server == "jp2.vpn.example"
    with pytest.raises(NoSlotError, match=r"every openvpn_tcp server in jp is in use"):
        await choose(provider, wish(protocol=Protocol.OPENVPN_TCP), [node(first)])
    top.joinpath("jp-osaka-2.ovpn").unlink()
    with pytest.raises(NoSlotError, match=r"alias\.vpn\.example: its address is in use under another name"):
        await choose(provider, wish(), [node(first)])
    put(top / "jp-broken.ovpn", openvpn("unknown.vpn.example"))
    with pytest.raises(ProviderError, match=r"in use under another name.*unknown\.vpn\.example") as mixed:
        await choose(provider, wish(), [node(first)])
    assert not isinstance(mixed.value, NoSlotError)


async def test_a_second_address_of_a_name_is_used_where_the_first_is_taken(provider: Custom) -> None:
    taken = Choice("another", "x.example", "", "198.18.0.2", 1, "udp")
    assert (await choose(provider, wish(city="osaka"), [node(taken)])).address == "198.18.0.22"


async def test_a_login_has_its_sessions_and_a_file_without_one_has_one(provider: Custom, top: Path) -> None:
    first, second = await choose(provider, wish(city="tokyo")), await choose(provider, wish(city="osaka"))
    assert provider.accounts() == {"custom-auth.txt": 2, "custom-us-new-york.conf-" + _suffix(provider): 1}
    put(top / "jp-3.ovpn", openvpn("us1.vpn.example"))
    with pytest.raises(NoSlotError, match=r"account custom-auth\.txt: 2 of 2 sessions are in use"):
        await choose(provider, wish(), [node(first), node(second, number=2)])
    put(top / "jp-3.auth", "own\nown\n")
    assert (await choose(provider, wish(), [node(first), node(second, number=2)])).account == "custom-jp-3.auth"


def _suffix(provider: Custom) -> str:
    return next(name for name in provider.accounts() if "york" in name).rpartition("-")[2]


async def test_an_account_that_rests_is_passed_over(provider: Custom, top: Path) -> None:
    rests = {"custom-auth.txt": Closed("account custom-auth.txt starts no node: AUTH_FAILED")}
    with pytest.raises(ProviderError, match="starts no node: AUTH_FAILED") as caught:
        await choose(provider, wish(), closed=rests)
    assert not isinstance(caught.value, NoSlotError)
    put(top / "jp-osaka-2.auth", "own\nown\n")
    assert (await choose(provider, wish(), closed=rests)).server == "jp2.vpn.example"


async def test_servers_that_failed_lately_come_last(provider: Custom) -> None:
    assert (await choose(provider, wish(), avoid=["jp2.vpn.example"])).server == "jp1.vpn.example"
    assert (await choose(provider, wish(), avoid=["jp1.vpn.example"])).server == "jp2.vpn.example"
    both = ["jp1.vpn.example", "jp2.vpn.example"]
    assert (await choose(provider, wish(), avoid=both)).server in both


async def test_a_name_without_an_address_is_passed_over_and_told(provider: Custom, top: Path) -> None:
    put(top / "jp-a.ovpn", openvpn("nowhere.vpn.example"))
    assert (
        await choose(provider, wish(), avoid=["jp1.vpn.example", "jp2.vpn.example"])
    ).server != "nowhere.vpn.example"
    with pytest.raises(ProviderError, match=r"nowhere\.vpn\.example: Name or service not known"):
        await choose(provider, wish(server="jp-a"))


async def test_what_is_missing_is_told_with_what_is_there(provider: Custom, top: Path) -> None:
    with pytest.raises(ProviderError, match=r"no openvpn_udp file for gb$"):
        await choose(provider, wish("gb"))
    with pytest.raises(ProviderError, match=r"no openvpn_udp file for us \(there are files for wireguard\)"):
        await choose(provider, wish("us"))
    put(top / "gb-1.ovpn", "up /bin/sh\n" + openvpn("us1.vpn.example"))
    with pytest.raises(
        ProviderError, match=r"no openvpn_udp file for gb; refused: gb-1\.ovpn line 1: up is not allowed"
    ):
        await choose(provider, wish("gb"))


async def test_openvpn_material_is_what_the_exit_runs(provider: Custom) -> None:
    choice = await choose(provider, wish(protocol=Protocol.OPENVPN_TCP))
    material = await provider.material(node(choice, Protocol.OPENVPN_TCP))
    files = {secret.name: secret.content for secret in material.files}
    assert {secret.uid for secret in material.files} == {VPN_UID}
    assert files["auth.txt"] == b"user\npass\n"
    text = files["client.ovpn"].decode()
    assert openvpn_config.refused(text) is None
    assert "remote 198.18.0.1 443\n" in text
    assert "auth SHA256\n" in text
    assert material.dns == ()


async def test_wireguard_material_is_what_the_exit_runs(provider: Custom, top: Path) -> None:
    choice = await choose(provider, wish("us", Protocol.WIREGUARD))
    us = node(choice, Protocol.WIREGUARD, country="us")
    material = await provider.material(us)
    (secret,) = material.files
    assert (secret.name, secret.uid) == ("wg.key", 0)
    assert nodefile.key(secret.content.decode()) == b"p" * 32
    assert (material.address, material.dns) == ("10.9.0.2/32", ("10.0.0.1",))
    assert nodefile.key(material.server_public_key) == b"p" * 32
    put(top / "us" / "new-york.conf", wireguard("198.18.0.31") + f"PresharedKey = {WG_KEY}\n")
    shared = {secret.name: secret for secret in (await provider.material(us)).files}["wg.psk"]
    assert (shared.uid, nodefile.key(shared.content.decode())) == (0, b"p" * 32)
    put(top / "us" / "new-york.conf", wireguard("198.18.0.31", ""))
    with pytest.raises(ProviderError, match="names no DNS server inside the tunnel"):
        await provider.material(us)


async def test_configured_dns_counts(top: Path) -> None:
    provider = Custom(CustomSettings(dns=("10.3.3.3",)), top, Clock(), resolve)  # type: ignore[arg-type]
    choice = await choose(provider, wish("us", Protocol.WIREGUARD))
    assert (await provider.material(node(choice, Protocol.WIREGUARD, country="us"))).dns == ("10.3.3.3",)
    await provider.close()


async def test_a_file_that_is_gone_is_told(provider: Custom, top: Path) -> None:
    choice = await choose(provider, wish(city="osaka"))
    top.joinpath("jp-osaka-2.ovpn").unlink()
    with pytest.raises(ProviderError, match=r"the file for jp2\.vpn\.example is gone"):
        await provider.material(node(choice))
    await choose(provider, wish())
    assert provider.moved({"x": node(choice)}) == {}


async def test_a_file_that_names_another_port_moves_its_node(provider: Custom, top: Path) -> None:
    choice = await choose(provider, wish(city="osaka"))
    there = node(choice)
    assert provider.moved({there.id: there}) == {}
    put(top / "jp-osaka-2.ovpn", openvpn("jp2.vpn.example", port=1201))
    await provider.countries()
    assert provider.moved({there.id: there}) == {there.id: "the file for jp2.vpn.example names another port by now"}
    foreign = there.model_copy(update={"account": "main"})
    assert provider.moved({foreign.id: foreign}) == {}


async def test_a_name_that_means_another_address_by_now_moves_its_node(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    provider = Custom(CustomSettings(), top, clock, resolve)
    there = node(await choose(provider, wish(city="tokyo")))
    monkeypatch.setitem(NAMES, "jp1.vpn.example", ["198.18.0.9"])
    for number in range(1, 7):
        assert provider.moved({there.id: there}) == {}
        clock.now = number * AGAIN_S
        await choose(provider, wish(server="jp-tokyo-1"))
    assert provider.moved({there.id: there}) == {there.id: "jp1.vpn.example has another address by now"}
    assert split_endpoint((await choose(provider, wish(server="jp-tokyo-1"))).endpoint)[0] == "198.18.0.9"
    await provider.close()


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    provider = Custom(CustomSettings(), tmp_path / "none", Clock(), resolve)
    with pytest.raises(ProviderError, match="No such file or directory"):
        await provider.countries()
    assert provider.accounts() == {}
    assert provider.moved({}) == {}
    await provider.close()


async def test_a_file_that_changed_is_seen_though_nobody_asks_for_a_server(top: Path) -> None:
    clock = Clock()
    provider = Custom(CustomSettings(), top, clock, resolve)
    there = node(await choose(provider, wish(city="osaka")))
    put(top / "jp-osaka-2.ovpn", openvpn("jp2.vpn.example", port=1201))
    assert provider.moved({there.id: there}) == {}
    clock.now = AGAIN_S
    async with asyncio.timeout(15):
        while not (found := provider.moved({there.id: there})):
            await asyncio.sleep(0.01)
    assert found == {there.id: "the file for jp2.vpn.example names another port by now"}
    await provider.close()

"""What the API tells about servers, against the stand-in with the true API's field names, and against anything."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.config import NordVpnAccount, NordVpnSettings
from control.providers import Wish
from control.providers.nordvpn import NordVpn
from control.providers.servers import (
    Server,
    land_as_told,
    parse_countries,
    parse_servers,
    preferred,
    server_as_told,
    suitable,
)
from deploy.lab.inside.nordvpn_api import Api, described
from health.model import Protocol

KEY = base64.b64encode(bytes(range(32))).decode()

# Numbers as NordVPN's API gives them: country, its id there, host name prefix, name, city, the city's id.
COUNTRIES = [
    ("AL", 2, "al", "Albania", "Tirana", 308615),
    ("AR", 10, "ar", "Argentina", "Buenos Aires", 384866),
    ("AT", 14, "at", "Austria", "Vienna", 448799),
    ("AU", 13, "au", "Australia", "Sydney", 479570),
    ("BA", 27, "ba", "Bosnia and Herzegovina", "Novi Travnik", 548462),
    ("BE", 21, "be", "Belgium", "Brussels", 654293),
    ("BG", 33, "bg", "Bulgaria", "Sofia", 777368),
    ("BR", 30, "br", "Brazil", "Sao Paulo", 890249),
    ("CA", 38, "ca", "Canada", "Toronto", 1054250),
    ("CH", 209, "ch", "Switzerland", "Zurich", 1171814),
    ("CL", 43, "cl", "Chile", "Santiago", 1227092),
    ("CZ", 57, "cz", "Czech Republic", "Prague", 2144945),
    ("DE", 81, "de", "Germany", "Frankfurt", 2215709),
    ("DK", 58, "dk", "Denmark", "Copenhagen", 2382515),
    ("EE", 68, "ee", "Estonia", "Tallinn", 2514182),
    ("ES", 202, "es", "Spain", "Madrid", 2619989),
    ("FI", 73, "fi", "Finland", "Helsinki", 2704343),
    ("FR", 74, "fr", "France", "Paris", 2886284),
    ("GB", 227, "uk", "United Kingdom", "London", 2989907),
    ("GR", 84, "gr", "Greece", "Athens", 3131903),
    ("HK", 97, "hk", "Hong Kong", "Hong Kong", 3232931),
    ("HU", 98, "hu", "Hungary", "Budapest", 3348344),
    ("IE", 104, "ie", "Ireland", "Dublin", 3939200),
    ("IN", 100, "in", "India", "Mumbai", 4041548),
    ("IT", 106, "it", "Italy", "Milan", 4542737),
    ("JP", 108, "jp", "Japan", "Tokyo", 4633349),
    ("KR", 114, "kr", "South Korea", "Seoul", 4879586),
    ("MK", 128, "mk", "North Macedonia", "Skopje", 5386019),
    ("MX", 140, "mx", "Mexico", "Mexico", 5677037),
    ("NL", 153, "nl", "Netherlands", "Amsterdam", 6076868),
    ("NO", 163, "no", "Norway", "Oslo", 6127364),
    ("NZ", 156, "nz", "New Zealand", "Auckland", 6144239),
    ("PL", 174, "pl", "Poland", "Warsaw", 6863429),
    ("SE", 208, "se", "Sweden", "Stockholm", 7852919),
    ("SG", 195, "sg", "Singapore", "Singapore", 7867982),
    ("US", 228, "us", "United States", "New York", 8971718),
    ("ZA", 200, "za", "South Africa", "Johannesburg", 9383693),
]
PORTS = {Protocol.OPENVPN_UDP: "1194/udp", Protocol.OPENVPN_TCP: "443/tcp", Protocol.WIREGUARD: "51820/udp"}
VIRTUAL = ("IN", "MX")


def listed(number: int, code: str, prefix: str, city: str) -> dict[str, Any]:
    """A server as the stand-in's file has it; India and Mexico are virtual."""
    return {
        "id": 900000 + number,
        "name": f"{code} #{number}",
        "hostname": f"{prefix}{number}.nordvpn.example",
        "station": f"198.18.{number // 250}.{number % 250 + 1}",
        "load": number % 100,
        "status": "online",
        "country": code,
        "city": city,
        "technologies": {"openvpn_udp": {}, "openvpn_tcp": {}, "wireguard_udp": {"public_key": KEY}},
        "specifications": {"virtual_location": True} if code in VIRTUAL else {},
    }


def world() -> dict[str, Any]:
    countries, servers = [], []
    for number, (code, land, prefix, name, city, city_id) in enumerate(COUNTRIES):
        place = {"id": city_id, "name": city, "dns_name": city.lower(), "latitude": 1.0, "longitude": 2.0}
        countries.append({"id": land, "name": name, "code": code, "cities": [place]})
        servers += [listed(2 * number + one, code, prefix, city) for one in (0, 1)]
    return {"countries": countries, "servers": servers, "accounts": [], "egress": {}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api") / "world.json"
    path.write_text(json.dumps(world()))
    return path


@pytest.fixture
async def provider(file: Path, tmp_path: Path, aiohttp_server: Any) -> AsyncIterator[NordVpn]:
    server = await aiohttp_server(Api(file).application())
    (tmp_path / "token").write_text("e9f2abtoken")
    (tmp_path / "token").chmod(0o600)
    account = NordVpnAccount(name="main", token_file=tmp_path / "token", slots=100)
    found = NordVpn(NordVpnSettings(api_url=str(server.make_url("")), accounts=(account,)))
    yield found
    await found.close()


def test_the_table_is_long_enough() -> None:
    assert len({code for code, *_ in COUNTRIES}) == len(COUNTRIES) >= 30


@pytest.mark.parametrize(("code", "land", "prefix", "name", "city", "city_id"), COUNTRIES)
async def test_every_country_is_served_by_every_protocol(
    provider: NordVpn, code: str, land: int, prefix: str, name: str, city: str, city_id: int
) -> None:
    country = code.lower()
    assert country in await provider.countries()
    for protocol, port in PORTS.items():
        choice = await provider.choose(Wish(country, protocol), [], {}, {})
        assert choice.server.startswith(prefix)
        assert choice.server.removeprefix(prefix)[0].isdigit()
        assert choice.city == city
        assert choice.endpoint == f"{choice.address}:{port}"
        assert choice.virtual is (code in VIRTUAL)
        assert (await provider.choose(Wish(country, protocol, city=city), [], {}, {})).server == choice.server
        avoided = await provider.choose(Wish(country, protocol), [], {choice.server: 1.0}, {})
        assert avoided.server != choice.server


def server(number: int, **changes: Any) -> dict[str, Any]:
    one = world()
    countries = {country["code"]: country for country in one["countries"]}
    return described(listed(number, "JP", "jp", "Tokyo"), countries) | changes


def wish(protocol: Protocol = Protocol.OPENVPN_UDP) -> Wish:
    return Wish("jp", protocol)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "maintenance"},
        {"station": "198.18.10.1\nup /bin/sh"},
        {"station": "jp1.nordvpn.example"},
        {"station": "::1"},
        {"station": "127.0.0.1"},
        {"station": "0.0.0.0"},
        {"station": "224.0.0.1"},
        {"station": 3232235777},
        {"hostname": "jp1.nordvpn.example\nscript-security 2"},
        {"hostname": "jp 1"},
        {"hostname": 5},
        {"locations": []},
        {"locations": [{"country": {"code": "??"}}]},
        {"technologies": None},
        {"load": "high"},
        {"load": float("inf")},
        {"specifications": [5]},
    ],
)
def test_servers_that_are_not_usable_are_left_out(changes: dict[str, Any]) -> None:
    assert parse_servers([server(1, **changes), server(2)]) == parse_servers([server(2)])


def test_wireguard_needs_a_key_and_technologies_must_be_online() -> None:
    keyless, offline = server(1), server(2)
    wireguard = [one["identifier"] for one in keyless["technologies"]].index("wireguard_udp")
    keyless["technologies"][wireguard]["metadata"] = [{"name": "public_key", "value": "short"}]
    offline["technologies"][wireguard]["pivot"]["status"] = "offline"
    servers = parse_servers([keyless, offline])
    assert suitable(servers, wish(Protocol.WIREGUARD), ()) == []
    assert len(suitable(servers, wish(), ())) == 2


@pytest.mark.parametrize(
    ("specifications", "virtual"),
    [
        ([], False),
        (None, False),
        ([{"identifier": "version", "values": [{"value": "true"}]}], False),
        ([{"identifier": "virtual_location"}], True),
        ([{"identifier": "virtual_location", "values": [{"value": "1"}]}], True),
        ([{"identifier": "virtual_location", "values": [{"value": "Reykjavik"}]}], True),
        ([{"identifier": "virtual_location", "values": [{"value": "false"}]}], False),
        ([{"identifier": "virtual_location", "values": [{"value": False}]}], False),
    ],
)
def test_a_virtual_location_is_told_by_its_specification(specifications: Any, virtual: bool) -> None:
    (found,) = parse_servers([server(1, specifications=specifications)])
    assert found.virtual is virtual


def test_failed_servers_come_last_and_virtual_ones_after_true_ones() -> None:
    plain, virtual = parse_servers([server(1), server(2, specifications=[{"identifier": "virtual_location"}])])
    assert preferred([virtual, plain], {}) == [plain, virtual]
    assert preferred([plain, virtual], {plain.hostname: 0.5}) == [virtual, plain]
    assert preferred([plain, virtual], {plain.hostname: 2, virtual.hostname: 1}) == [plain, virtual]
    one, two = parse_servers([server(3), server(4)])
    assert preferred([one, two], {one.hostname: 2, two.hostname: 1}) == [two, one]


def test_what_is_kept_reads_as_what_was_told() -> None:
    servers = parse_servers([server(1), server(2, specifications=[{"identifier": "virtual_location"}])])
    assert parse_servers([server_as_told(one) for one in servers]) == servers
    lands = parse_countries(world()["countries"])
    assert parse_countries([land_as_told(land) for land in lands]) == lands
    assert len(lands) == len(COUNTRIES)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("198.18.0.1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("hostname", "station", "load", "status", "locations", "technologies", "specifications")


@given(values, st.sampled_from(FIELDS), values)
def test_any_json_is_a_list_of_sound_servers(anything: Any, name: str, value: Any) -> None:
    found = parse_servers(anything) + parse_servers([server(1, **{name: value}), anything])
    assert all(isinstance(one, Server) and "\n" not in one.hostname + one.address + one.city for one in found)
    assert all(0 <= one.load <= 100 for one in found)
    assert isinstance(parse_countries(anything), list)
    assert isinstance(parse_countries([{"id": anything, "code": value}]), list)

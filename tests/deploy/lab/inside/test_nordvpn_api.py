import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from deploy.lab import servers, world
from deploy.lab.inside.nordvpn_api import Api, seen

Client = TestClient[Any, Any]
CREDENTIALS = "/v1/users/services/credentials"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    servers.write(files := servers.Files(tmp_path))
    return files.world


@pytest.fixture
async def client(file: Path) -> AsyncIterator[Client]:
    async with TestClient(TestServer(Api(file).application())) as client:
        yield client


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


async def _hosts(client: Client, query: str) -> list[str]:
    answer = await client.get(f"/v1/servers/recommendations?{query}")
    assert answer.status == 200
    return [server["hostname"].partition(".")[0] for server in await answer.json()]


async def test_recommendations_are_filtered_and_the_least_loaded_first(client: Client) -> None:
    assert await _hosts(client, "") == ["jp1", "uk1", "jp2", "us1", "jp3"]
    assert await _hosts(client, "limit=1") == ["jp1"]
    assert await _hosts(client, "filters[country_id]=108") == ["jp1", "jp2", "jp3"]
    assert await _hosts(client, "filters[servers_technologies][identifier]=openvpn_tcp") == ["uk1", "uk2"]
    assert await _hosts(client, "filters[servers_technologies][id]=35") == ["jp1", "jp2", "jp3"]
    assert await _hosts(client, "filters[country_id]=108&filters[servers_technologies][identifier]=openvpn_udp") == []
    assert (await client.get("/v1/servers/recommendations?limit=x")).status == 400


async def test_a_server_has_the_fields_that_clients_read(client: Client, file: Path) -> None:
    listed = await (await client.get("/v1/servers?limit=0")).json()
    first = listed[0]
    assert len(listed) == len(world.SERVERS)
    assert (first["station"], first["status"], first["load"]) == ("198.18.10.11", "online", 12)
    assert first["locations"][0]["country"]["code"] == "JP"
    assert first["locations"][0]["country"]["city"]["name"] == "Tokyo"
    technology = first["technologies"][0]
    assert (technology["id"], technology["identifier"]) == (35, "wireguard_udp")
    assert technology["pivot"] == {"technology_id": 35, "server_id": first["id"], "status": "online"}
    key = json.loads(file.read_text())["servers"][0]["technologies"]["wireguard_udp"]["public_key"]
    assert technology["metadata"] == [{"name": "public_key", "value": key}]
    assert {"created_at", "hostname", "groups", "specifications", "ips", "services"} <= set(first)


async def test_countries_and_technologies(client: Client) -> None:
    countries = await (await client.get("/v1/servers/countries")).json()
    assert [(country["id"], country["code"], country["serverCount"]) for country in countries] == [
        (108, "JP", 3),
        (228, "US", 2),
        (227, "GB", 2),
    ]
    assert {"id", "name", "dns_name"} <= set(countries[0]["cities"][0])
    technologies = await (await client.get("/v1/technologies")).json()
    assert {(entry["id"], entry["identifier"]) for entry in technologies} >= {
        (3, "openvpn_udp"),
        (5, "openvpn_tcp"),
        (35, "wireguard_udp"),
    }


async def test_credentials_need_the_right_token(client: Client, file: Path) -> None:
    account = json.loads(file.read_text())["accounts"][0]
    answer = await client.get(CREDENTIALS, headers=basic("token", account["token"]))
    assert answer.status == 200
    told = await answer.json()
    assert {name: told[name] for name in ("username", "password", "nordlynx_private_key")} == {
        name: account[name] for name in ("username", "password", "nordlynx_private_key")
    }
    headers = [basic("token", "0" * 64), basic("token", ""), basic("user", account["token"])]
    headers += [{}, {"Authorization": f"Bearer {account['token']}"}, {"Authorization": "Basic !"}]
    for header in headers:
        refused = await client.get(CREDENTIALS, headers=header)
        assert refused.status == 401, header
        assert await refused.json() == {"errors": {"code": 101301, "message": "Unauthorized"}}


async def test_a_test_changes_the_world_by_writing_it(client: Client, file: Path) -> None:
    told = json.loads(file.read_text())
    told["accounts"][0]["forbidden"] = True
    told["servers"][0]["status"] = "offline"
    told["servers"][1]["load"] = 1
    file.write_text(json.dumps(told))
    refused = await client.get(CREDENTIALS, headers=basic("token", told["accounts"][0]["token"]))
    assert refused.status == 403
    assert await _hosts(client, "filters[country_id]=108") == ["jp2", "jp3"]
    assert await _hosts(client, "limit=1") == ["jp2"]


async def test_insights_tell_the_caller_where_it_seems_to_be(client: Client, file: Path) -> None:
    told = await (await client.get("/v1/helpers/ips/insights")).json()
    assert (told["ip"], told["country_code"], told["protected"]) == ("127.0.0.1", "ZZ", False)
    abroad = seen(json.loads(file.read_text()), "198.19.10.31")
    assert (abroad["country_code"], abroad["city"], abroad["protected"]) == ("GB", "London", True)


async def test_faults_are_answered_instead(client: Client, file: Path) -> None:
    told = json.loads(file.read_text())
    told["faults"] = {
        "/v1/servers": {"status": 429, "headers": {"Retry-After": "60"}},
        "/v1/technologies": {"status": 200, "body": "<html>log in to this hotspot</html>"},
        "/v1/servers/countries": {"seconds": 0.05},
    }
    file.write_text(json.dumps(told))
    busy = await client.get("/v1/servers")
    assert (busy.status, busy.headers["Retry-After"]) == (429, "60")
    page = await client.get("/v1/technologies")
    assert (page.status, page.content_type, await page.text()) == (
        200,
        "text/html",
        "<html>log in to this hotspot</html>",
    )
    began = time.monotonic()
    assert (await client.get("/v1/servers/countries")).status == 200
    assert time.monotonic() - began >= 0.05
    del told["faults"]
    file.write_text(json.dumps(told))
    assert (await client.get("/v1/servers")).status == 200

"""Countries and servers as last told: what is kept on disk, and what of it is believed."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from control.providers import ProviderError, Wish
from control.providers.api import Api
from control.providers.catalogue import Catalogue
from health.model import Protocol

KEY = base64.b64encode(bytes(32)).decode()


def told(number: int) -> dict[str, Any]:
    return {
        "hostname": f"jp{number}.nordvpn.example",
        "station": f"198.18.10.{number}",
        "load": number,
        "status": "online",
        "locations": [{"country": {"code": "JP", "city": {"name": "Tokyo"}}}],
        "technologies": [{"identifier": "wireguard_udp", "metadata": [{"name": "public_key", "value": KEY}]}],
    }


class World:
    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "/v1/servers": [told(number) for number in range(1, 11)],
            "/v1/servers/countries": [{"id": 108, "code": "JP"}],
            "/v1/servers/recommendations": [told(1)],
        }
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        found = self.answers[request.path]
        return web.Response(status=found) if isinstance(found, int) else web.json_response(found)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def api(world: World, aiohttp_server: Any) -> AsyncIterator[Api]:
    app = web.Application()
    app.router.add_get("/{path:.*}", world.answer)
    found = Api(str((await aiohttp_server(app)).make_url("")).rstrip("/"), 2.0)
    yield found
    await found.close()


async def until(condition: Any) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


WISH = Wish("jp", Protocol.WIREGUARD)


async def test_a_tenth_of_the_servers_is_not_taken_over_the_good_copy(api: Api, world: World, tmp_path: Path) -> None:
    first = Catalogue(api, tmp_path)
    assert len(await first.servers()) == 10
    await first.close()
    world.answers["/v1/servers"] = [told(1)]
    again = Catalogue(api, tmp_path)
    again.listed()
    await until(lambda: world.asked.count("/v1/servers") == 2)
    assert len(await again.servers()) == 10
    await again.close()
    assert len(await Catalogue(api, tmp_path).servers()) == 10


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "at": "x", "told": []}', "null"])
async def test_a_broken_copy_is_no_copy(api: Api, world: World, tmp_path: Path, broken: str) -> None:
    (tmp_path / "servers.json").write_text(broken)
    (tmp_path / "countries.json").write_text(broken)
    catalogue = Catalogue(api, tmp_path)
    assert len(await catalogue.servers()) == 10
    assert list(await catalogue.lands()) == ["jp"]
    await catalogue.close()


async def test_a_full_disk_costs_the_copy_alone(
    api: Api, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("control.providers.catalogue.write_private", full)
    catalogue = Catalogue(api, tmp_path)
    assert len(await catalogue.servers()) == 10
    await catalogue.close()
    assert list(tmp_path.iterdir()) == []


async def test_recommended_servers_serve_where_there_is_no_list(api: Api, world: World) -> None:
    world.answers["/v1/servers"] = 500
    catalogue = Catalogue(api, None)
    assert [server.hostname for server in await catalogue.recommended(WISH)] == ["jp1.nordvpn.example"]
    assert list(await catalogue.servers()) == ["jp1.nordvpn.example"]
    found = await catalogue.find("jp1.nordvpn.example")
    assert found is not None
    assert found.public_key == KEY
    assert await catalogue.find("jp2.nordvpn.example") is None
    assert catalogue.listed() == {}
    await catalogue.close()


async def test_nothing_ever_told_is_told(api: Api, world: World) -> None:
    world.answers |= dict.fromkeys(world.answers, 500)
    catalogue = Catalogue(api, None)
    assert await catalogue.recommended(WISH) == []
    with pytest.raises(ProviderError, match="/v1/servers answered 500"):
        await catalogue.servers()
    with pytest.raises(ProviderError, match="/v1/servers/countries answered 500"):
        await catalogue.lands()
    await catalogue.close()


async def test_a_country_without_servers_is_not_asked_for(api: Api, world: World) -> None:
    catalogue = Catalogue(api, None)
    assert await catalogue.recommended(Wish("us", Protocol.WIREGUARD)) == []
    assert "/v1/servers/recommendations" not in world.asked
    await catalogue.close()


async def test_what_was_told_last_of_a_server_counts(api: Api, world: World) -> None:
    now = [1.0]
    catalogue = Catalogue(api, None, lambda: now[0], lambda: now[0])
    await catalogue.recommended(WISH)
    await until(catalogue.listed)
    now[0] = 4000.0
    world.answers["/v1/servers"][0] |= {"station": "198.18.10.98"}
    await until(lambda: catalogue.listed()["jp1.nordvpn.example"].address == "198.18.10.98")
    found = await catalogue.find("jp1.nordvpn.example")
    assert found is not None
    assert found.address == "198.18.10.98"
    now[0] = 4001.0
    world.answers["/v1/servers/recommendations"] = [told(1) | {"station": "198.18.10.99"}]
    await catalogue.recommended(WISH)
    found = await catalogue.find("jp1.nordvpn.example")
    assert found is not None
    assert found.address == "198.18.10.99"
    await catalogue.close()

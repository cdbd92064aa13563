"""What gateways count, read from their metrics."""

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from control.api.gateways import Counts, Gateways, read_counts
from gateway.exposition import exposition
from tests.control.api.conftest import NewApi

PAGE = exposition({"connections": {("jp", "jp000001", "ok"): (3, 100, 20), ("us", "us000001", "ok"): (1, 5, 0)}},
                  {"open_connections": 7}, 0).decode()  # fmt: skip


@pytest.fixture
async def gateway() -> Any:
    asked = []

    async def metrics(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text=PAGE)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    server = TestServer(app)
    await server.start_server()
    yield f"127.0.0.1:{server.port}", asked
    await server.close()


def test_a_gateways_own_page_is_understood() -> None:
    assert read_counts(PAGE) == (7, 125)


@pytest.mark.parametrize("text", ["", "<html>", "up 1\n", "vpnexit_gateway_open_connections x\n"])
def test_other_pages_are_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"gateway|float|line|sample|name"):
        read_counts(text)


async def test_those_that_answer_are_added_up_and_the_others_named(gateway: Any) -> None:
    address, asked = gateway
    gateways = Gateways((address, "127.0.0.1:1", address))
    assert await gateways.counts() == Counts(clients=14, traffic=250, silent=("127.0.0.1:1",))
    await gateways.counts()
    assert len(asked) == 2, "asked again only after a second"


async def test_they_are_in_the_stats(fleet: Any, new_api: NewApi, gateway: Any) -> None:
    await fleet.registry.begin_epoch()
    api = await new_api(fleet, gateways=(gateway[0], "127.0.0.1:1"))
    found = await (await api.get("/api/stats")).json()
    assert (found["connected_clients"], found["total_traffic"]) == (7, 125)
    assert found["gateways_silent"] == ["127.0.0.1:1"]

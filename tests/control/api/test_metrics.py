"""/metrics: what is counted, and who may read it."""

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from control.api.envelope import is_local
from tests.control.api.conftest import ADMIN, Client, NewApi


async def read(api: Any) -> dict[tuple[str, ...], float]:
    """Values by name and labels, the labels in the order of their names."""
    text = await (await api.get("/metrics")).text()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests_changes_and_the_fleet_are_counted(api: Any, ask: Client, fleet: Any) -> None:
    await ask("POST", "/api/pools/jp/scale", json={"nodes": 1})
    await fleet.serving()
    await ask("PUT", "/api/pools/xx", 400, json={})
    await ask("GET", "/api/nothing", 404)
    found = await read(api)
    assert found["vpnexit_control_requests_total", "pool.scale", "200"] == 1
    assert found["vpnexit_control_requests_total", "none", "404"] == 1
    assert found["vpnexit_control_request_seconds_total", "pool.scale", "200"] > 0
    assert found["vpnexit_control_changes_total", "yes", "pool.scale"] == 1
    assert found["vpnexit_control_changes_total", "no", "pool.change"] == 1
    assert found["vpnexit_control_nodes", "jp", "running"] == 1
    assert found["vpnexit_control_desired_nodes", "jp"] == found["vpnexit_control_serving_nodes", "jp"] == 1
    assert found["vpnexit_control_registry_up",] == found["vpnexit_control_leader",] == 1


async def test_labels_do_not_grow_with_what_is_asked(api: Any) -> None:
    for number in range(20):
        await api.get(f"/api/nothing/{number}")
        await api.get(f"/api/nodes/jp{number:06x}")
    assert len([key for key in await read(api) if key[0] == "vpnexit_control_requests_total"]) <= 3


async def test_it_is_open_on_loopback_but_not_through_another_proxy(fleet: Any, new_api: NewApi) -> None:
    await fleet.registry.begin_epoch()
    api = await new_api(fleet, {})
    assert (await api.get("/metrics")).status == 200
    for field in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert (await api.get("/metrics", headers={field: "192.0.2.1"})).status == 401
        assert (await api.get("/metrics", headers={field: "192.0.2.1", **ADMIN})).status == 200


class _Transport:
    def __init__(self, name: object) -> None:
        self._name = name

    def get_extra_info(self, what: str, default: object = None) -> object:
        return self._name if what == "sockname" else default


@pytest.mark.parametrize(
    ("name", "local"),
    [
        (("127.0.0.1", 8080), True),
        (("127.9.9.9", 8080), True),
        (("::1", 8080, 0, 0), True),
        (("::ffff:127.0.0.1", 8080, 0, 0), True),
        (("192.0.2.1", 8080), False),
        (("::ffff:192.0.2.1", 8080, 0, 0), False),
        (("fe80::1%eth0", 8080, 0, 2), False),
        ("/run/socket", False),
        (None, False),
    ],
)
def test_which_listeners_are_loopback(name: object, local: bool) -> None:
    assert is_local(make_mocked_request("GET", "/metrics", transport=_Transport(name))) is local

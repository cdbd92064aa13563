"""Who gets in, with what, and how guessing is slowed."""

import base64
from typing import Any

import pytest

from control.api.server import OPERATIONS
from control.api.slowdown import FREE
from health.config import RedisSettings
from health.model import Scope
from health.registry import Registry
from tests.control.api.conftest import ADMIN, PASSWORD, Client, NewApi, asking


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Basic",
        "Basic !!!",
        "Bearer " + PASSWORD,
        "Basic " + base64.b64encode(b"admin:wrong").decode(),
        "Basic " + base64.b64encode(f"root:{PASSWORD}".encode()).decode(),
        "Basic " + base64.b64encode(f"admin:{PASSWORD} ".encode()).decode(),
    ],
)
async def test_nobody_else_gets_in(fleet: Any, new_api: NewApi, header: str | None) -> None:
    client = await new_api(fleet, {})
    for method, path in [("GET", "/api/nodes"), ("POST", "/api/nodes/jp/start"), ("GET", "/api/nothing")]:
        response = await client.request(method, path, headers={"Authorization": header} if header else {})
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Basic ")
        assert (await response.json())["reason"] == "unauthorized"
    assert await fleet.registry.nodes() == {}


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def somewhere(path: str) -> str:
    for name, value in (("{country}", "jp"), ("{id}", "jp00ff00"), ("{token}", "0123456789ab"), ("{name}", "bob")):
        path = path.replace(name, value)
    return path


CLOSED = [operation for operation in OPERATIONS if operation.scope is not None]


async def test_only_these_are_open() -> None:
    assert {operation.path for operation in OPERATIONS if operation.scope is None} == {
        "/api/health",
        "/api/health/ready",
        "/proxy.pac",
    }
    assert [operation.path for operation in OPERATIONS if operation.may_be_open] == ["/metrics"]


async def test_no_operation_answers_without_a_log_in(fleet: Any, new_api: NewApi) -> None:
    await fleet.registry.begin_epoch()
    api = await new_api(fleet, {})
    for operation in CLOSED:
        for _ in range(2):  # nothing offered is no failed log-in
            response = await api.request(operation.method, somewhere(operation.path))
            assert response.status == 401, operation.name
            assert response.headers["WWW-Authenticate"].startswith("Basic ")
    assert await fleet.registry.users() == {}


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_token_may_do_what_its_scope_says(ask: Client, fleet: Any, new_api: NewApi, scope: Scope) -> None:
    token = await ask("POST", "/api/tokens", 201, json={"name": "ci", "scope": scope.value})
    api = await new_api(fleet, bearer(token["token"]))
    for operation in CLOSED:
        if operation.name in ("events", "token.remove"):
            continue
        response = await api.request(operation.method, somewhere(operation.path))
        assert operation.scope is not None
        if scope.includes(operation.scope):
            assert response.status not in (401, 403), operation.name
        else:
            body = await response.json()
            assert (response.status, body["reason"]) == (403, "forbidden"), operation.name
            assert operation.scope.value in body["detail"]


@pytest.mark.parametrize(
    "mangle",
    [
        lambda secret: secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        lambda secret: secret + "A",
        lambda secret: secret[:-1],
        lambda secret: secret.upper(),
        lambda secret: "vx_000000000000_" + secret[16:],
        lambda secret: secret + "\u00e4",
    ],
)
async def test_a_token_that_is_nearly_right(ask: Client, fleet: Any, new_api: NewApi, mangle: Any) -> None:
    secret = (await ask("POST", "/api/tokens", 201, json={"name": "ci"}))["token"]
    api = await new_api(fleet, {})
    assert (await api.get("/api/nodes", headers=bearer(secret))).status == 200
    assert (await api.get("/api/nodes", headers=bearer(mangle(secret)))).status == 401
    assert (await api.get("/api/nodes", headers=basic(secret))).status == 401


async def test_guesses_are_slowed_and_those_at_home_are_not(fleet: Any, new_api: NewApi) -> None:
    await fleet.registry.begin_epoch()
    api = await new_api(fleet, {})
    statuses = [(await api.get("/api/nodes", headers=basic(f"guess{n}"))).status for n in range(FREE + 3)]
    assert statuses == [401] * (FREE + 1) + [429] * 2
    slowed = await api.get("/api/nodes", headers=ADMIN)
    assert slowed.status == 429, "else the right password would be told by the answer"
    assert 1 <= int(slowed.headers["Retry-After"]) <= 60
    assert (await slowed.json())["reason"] == "slowed"
    assert (await api.get("/api/health")).status == 200
    home = await new_api(fleet, {})
    assert (await home.get("/api/nodes", headers=ADMIN)).status == 200
    for n in range(FREE + 3):
        await home.get("/api/nodes", headers=basic(f"guess{n}"))
    assert (await home.get("/api/nodes", headers=basic("guess"))).status == 429
    assert (await home.get("/api/nodes", headers=ADMIN)).status == 200, "who logged in before goes on"


async def test_a_token_is_served_whatever_others_guess_from_its_address(
    ask: Client, fleet: Any, new_api: NewApi
) -> None:
    secret = (await ask("POST", "/api/tokens", 201, json={"name": "ci"}))["token"]
    api = await new_api(fleet, {})
    for n in range(FREE + 3):
        await api.get("/api/nodes", headers=bearer(f"guess{n}"))
    assert (await api.get("/api/nodes", headers=bearer("guess"))).status == 429
    assert (await api.get("/api/nodes", headers=bearer(secret))).status == 200


async def test_a_log_in_in_an_unusual_form_is_the_same(fleet: Any, new_api: NewApi) -> None:
    await fleet.registry.begin_epoch()
    api = await new_api(fleet, {})
    value = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    for text in (f"basic {value}", f"BASIC  {value}", f"Basic {value} "):
        assert (await api.get("/api/nodes", headers={"Authorization": text})).status == 200


async def test_without_redis_a_token_is_neither_right_nor_wrong(
    redis_server: Any, new_control: Any, new_api: NewApi
) -> None:
    registry = Registry.open(RedisSettings(url=redis_server.url, timeout=5.0))
    control = new_control(registry)
    try:
        await registry.begin_epoch()
        ask = asking(await new_api(control))
        secret = (await ask("POST", "/api/tokens", 201, json={"name": "ci"}))["token"]
        redis_server.stop()
        api = await new_api(control, bearer(secret))
        response = await api.get("/api/nodes")
        assert (response.status, (await response.json())["reason"]) == (503, "registry_down")
    finally:
        await control.close()
        await registry.close()

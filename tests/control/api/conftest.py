"""A whole API on a real aiohttp server and a real Redis, over the stand-in fleet of tests/control."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from control.api.context import PARTS, Context
from control.api.server import application

PASSWORD = "the-generated-one"
ADMIN = {"Authorization": "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()}
Client = Callable[..., Awaitable[Any]]
NewApi = Callable[..., Awaitable[TestClient[Any, Any]]]


def context(control: Any, **more: Any) -> Context:
    """What the API needs of a control."""
    return Context(
        fleet=control.fleet,
        registry=control.registry,
        reconciler=control.reconciler,
        files=control.files,
        providers={"nordvpn": control.world.provider},
        default_provider="nordvpn",
        changed=control.reconciler.wake,
        engine=control.world.engine if control.settings.engine == "docker" else None,
        **more,
    )


@pytest.fixture
async def new_api() -> AsyncIterator[NewApi]:
    """Makes API instances; each is a server on a port of its own."""
    made: list[TestClient[Any, Any]] = []

    async def make(control: Any, headers: dict[str, str] | None = None, **more: Any) -> TestClient[Any, Any]:
        server = TestServer(application(context(control, **more), PASSWORD))
        made.append(TestClient(server, headers=ADMIN if headers is None else headers))
        await made[-1].start_server()
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
async def api(fleet: Any, new_api: NewApi) -> TestClient[Any, Any]:
    """An API over `fleet`, asked as admin."""
    await fleet.registry.begin_epoch()
    return await new_api(fleet)


@pytest.fixture
def parts(api: TestClient[Any, Any]) -> Any:
    """What that API instance remembers."""
    assert api.app is not None
    return api.app[PARTS]


def asking(client: TestClient[Any, Any]) -> Client:
    """A short form of asking `client` for JSON; refusals must have the one form."""

    async def call(method: str, path: str, expected: int = 200, **more: Any) -> Any:
        response = await client.request(method, path, **more)
        body = await response.json()
        assert response.status == expected, body
        if expected >= 400:
            assert set(body) == {"detail", "status", "reason"}
            assert body["status"] == expected
            assert body["detail"]
        return body

    return call


@pytest.fixture
def ask(api: TestClient[Any, Any]) -> Client:
    return asking(api)

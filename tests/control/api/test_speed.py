"""/api/speed-test: not built yet, and said in plain words."""

import pytest

from tests.control.api.conftest import Client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/speed-test/jp000001"),
        ("GET", "/api/speed-test/results"),
        ("GET", "/api/speed-test/results/jp000001"),
    ],
)
async def test_it_says_that_it_is_not_there(ask: Client, method: str, path: str) -> None:
    refused = await ask(method, path, 501)
    assert refused["reason"] == "not_implemented"
    assert "not built yet" in refused["detail"]

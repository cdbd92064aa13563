"""Every refusal has one form, and its status says whose turn it is."""

import json

import pytest
from aiohttp import web

from control.api.errors import REASON, ApiError, told
from control.engine import EngineGoneError
from control.fleet import FleetError, InvalidPoolError, LimitError, NotFoundError, UnavailableError
from control.providers import ProviderError
from health.registry import RegistryError, StaleVersionError


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ApiError(418, "teapot", "short and stout"), 418, "teapot"),
        (NotFoundError("there is no node"), 404, "not_found"),
        (LimitError("too many"), 409, "pool_limit"),
        (FleetError("changed by others"), 409, "conflict"),
        (StaleVersionError(3), 409, "stale_version"),
        (InvalidPoolError("its own fallback"), 422, "contradiction"),
        (UnavailableError("no engine"), 503, "unavailable"),
        (ProviderError("no server"), 503, "no_server"),
        (RegistryError("Redis: no answer"), 503, "registry_down"),
        (EngineGoneError("Docker does not answer"), 503, "engine_down"),
        (web.HTTPNotFound(), 404, "not_found"),
        (web.HTTPMethodNotAllowed("PATCH", ["GET"]), 405, "method_not_allowed"),
        (web.HTTPRequestEntityTooLarge(1, 2), 413, "too_large"),
        (ValueError("a detail of ours"), 500, "internal"),
    ],
)
def test_what_each_is_told_as(error: Exception, status: int, reason: str) -> None:
    answer = told(error, "GET", "/api/x", "r1")
    assert isinstance(answer.body, bytes)
    body = json.loads(answer.body)
    assert (answer.status, body["status"], body["reason"], answer[REASON]) == (status, status, reason, reason)
    assert set(body) == {"detail", "status", "reason"}
    assert body["detail"]
    assert "a detail of ours" not in body["detail"]
    assert ("Allow" in answer.headers) == (status == 405)

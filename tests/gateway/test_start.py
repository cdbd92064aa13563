"""What a worker is told is what was configured, secrets and all."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway import start
from gateway.config import GatewaySettings
from gateway.plan import Plan
from health.config import RedisSettings

SETTINGS = GatewaySettings.model_validate(
    {
        "listen": ["127.0.0.1:3128", "[::1]:3128"],
        "workers": 3,
        "allow_targets": ["198.18.0.0/15", "fd00::/8"],
        "country_addresses": {"2001:db8::392/128": "jp", "192.0.2.0/24": "uk"},
        "upstream_passwords": "/nowhere/upstreams",
        "drain_timeout": 7.5,
    }
)
REDIS = RedisSettings.model_validate({"url": "redis://127.0.0.1:1/0", "password": "geheim und länger"})


def told(settings: GatewaySettings = SETTINGS) -> start.Start:
    plan = Plan.read(start.dump(settings, REDIS, "m1", "warning", ["vpnexit", "gateway"]))
    return start.read(json.dumps({"worker": plan.worker, "sockets": [7, 8], "alone": True}).encode())


def test_settings_arrive_unchanged() -> None:
    found = told()
    assert found.settings == SETTINGS
    assert found.settings.upstream_passwords == Path("/nowhere/upstreams")
    assert found.redis.password is not None
    assert found.redis.password.get_secret_value() == "geheim und länger"
    assert found.redis == REDIS
    assert (found.machine, found.log_level, found.sockets, found.alone) == ("m1", "warning", (7, 8), True)


def test_defaults_stay_defaults() -> None:
    assert told(GatewaySettings()).settings == GatewaySettings()


def test_the_supervisor_reads_what_it_needs() -> None:
    plan = Plan.read(start.dump(SETTINGS, REDIS, "m1", "info", ["vpnexit", "gateway"]))
    assert plan.listen == ["127.0.0.1:3128", "[::1]:3128"]
    assert (plan.workers, plan.drain_timeout, plan.log_level) == (3, 7.5, "info")
    assert plan.reload == ["vpnexit", "gateway"]
    assert plan.metrics_token == ""


def test_a_token_is_the_supervisors_alone() -> None:
    text = start.dump(SETTINGS, REDIS, "m1", "info", ["vpnexit"], SecretStr("s3cret-token"))
    plan = Plan.read(text)
    assert plan.metrics_token == "s3cret-token"
    assert "s3cret-token" not in json.dumps(plan.worker)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"worker": {}}'])
def test_what_is_not_understood_is_an_error(text: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        start.read(text)


def test_what_failed_is_told_by_a_supervisor_that_knows_of_it() -> None:
    assert told().failures is None
    plan = Plan.read(start.dump(SETTINGS, REDIS, "m1", "info", ["vpnexit", "gateway"]))
    text = {"worker": plan.worker, "sockets": [], "alone": False, "failures": [["c0000201", 1.0, 0.5]]}
    assert start.read(json.dumps(text).encode()).failures == [["c0000201", 1.0, 0.5]]

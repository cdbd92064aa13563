"""Settings of the shared parts: defaults, limits, and what is not shown."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from health.config import (
    CollectorSettings,
    MetricsSettings,
    RedisSettings,
    ScorerSettings,
    SpeedTestSettings,
    default_state_dir,
    is_loopback,
)
from health.registry import SAMPLE_TTL_S


def test_defaults() -> None:
    assert RedisSettings().timeout == 0.25
    assert (CollectorSettings().interval, CollectorSettings().timeout) == (1.0, 0.8)
    assert (ScorerSettings().interval, ScorerSettings().lease) == (1.0, 3.0)
    assert default_state_dir() == Path.home() / ".local/state/vpnexit"


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h", "unix:///run/redis.sock"])
def test_urls(url: str) -> None:
    assert RedisSettings(url=url).url == url


SENTINELS = {"sentinels": ["s1:26379", "[::1]:26379"], "master": "vx"}


@pytest.mark.parametrize(
    "right",
    [
        SENTINELS,
        SENTINELS | {"url": "redis:///0", "username": "vx", "password": "p", "sentinel_password": "q"},
        SENTINELS | {"url": "rediss:///3", "tls_ca_file": "ca.pem", "tls_cert_file": "c.pem", "tls_key_file": "k.pem"},
        {"url": "redis://vx:p@h:1"},
        {"url": "rediss://h:1/15", "username": "vx", "password": "p"},
    ],
)
def test_what_may_be_set_together(right: dict[str, Any]) -> None:
    assert RedisSettings(**right)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"sentinels": ["s1:26379"]}, "without redis.master"),
        ({"master": "vx"}, "without redis.sentinels"),
        ({"sentinel_password": "q"}, "without redis.sentinels"),
        (SENTINELS | {"sentinels": ["s1"]}, "write HOST:PORT"),
        (SENTINELS | {"sentinels": ["<host>:26379"]}, "write HOST:PORT"),
        (SENTINELS | {"sentinels": ["s1:65536"]}, "write HOST:PORT"),
        (SENTINELS | {"master": "<name>"}, "pattern"),
        (SENTINELS | {"url": "redis://h:6379/0"}, "write redis:///0"),
        (SENTINELS | {"url": "unix:///run/redis.sock"}, "write redis:///0"),
        (SENTINELS | {"sentinel_username": "a"}, "without redis.sentinel_password"),
        ({"url": "redis:///0"}, "names no host"),
        ({"url": "rediss://h?ssl_cert_reqs=none"}, "follows the"),
        ({"url": "redis://h:99999"}, "not a number from 1 to 65535"),
        ({"url": "redis://h/x"}, "the number of a database"),
        ({"username": "vx"}, "without redis.password"),
        ({"url": "redis://vx:p@h", "username": "vx"}, "remove one of them"),
        ({"url": "redis://:p@h", "password": "p"}, "remove the one in the URL"),
        ({"tls_ca_file": "ca.pem"}, "does not begin with rediss"),
        ({"url": "rediss://h", "tls_cert_file": "c.pem"}, "set both or none"),
    ],
)
def test_half_a_way_to_redis_is_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        RedisSettings(**wrong)


def test_the_place_is_told_without_a_password() -> None:
    assert RedisSettings(**SENTINELS).place == "vx by the sentinels s1:26379, [::1]:26379"
    assert RedisSettings(url="redis://vx:hunter2@h:1/0").place == "redis://…@h:1/0"


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (RedisSettings, {"url": "http://127.0.0.1"}),
        (RedisSettings, {"url": "127.0.0.1:6379"}),
        (RedisSettings, {"url": "redis://"}),
        (RedisSettings, {"timeout": 0}),
        (RedisSettings, {"host": "127.0.0.1"}),
        (CollectorSettings, {"interval": SAMPLE_TTL_S}),
        (CollectorSettings, {"timeout": 0}),
        (CollectorSettings, {"intervall": 1}),
        (ScorerSettings, {"interval": 2, "lease": 3}),
        (ScorerSettings, {"interval": 0}),
        (ScorerSettings, {"lease": 0}),
        (ScorerSettings, {"metrics_listen": "9101"}),
        (CollectorSettings, {"metrics_listen": "127.0.0.1:99999"}),
        (MetricsSettings, {"tokens": "x"}),
        (SpeedTestSettings, {"download_url": "http://h/"}),
        (SpeedTestSettings, {"upload_url": "http://h/"}),
        (SpeedTestSettings, {"bytes": 1000}),
        (SpeedTestSettings, {"bytes": 10**12}),
        (SpeedTestSettings, {"seconds": 0}),
        (SpeedTestSettings, {"every_hours": -1}),
        (SpeedTestSettings, {"url": "http://h/"}),
    ],
)
def test_values_that_could_not_work(kind: type[BaseModel], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**wrong)


def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(RedisSettings(password="hunter2"))


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.0.2.1:1", False),
        ("metrics.example:1", False),
    ],
)
def test_what_is_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize(
    "url",
    ["", "h", "ftp://h/", "http:///", "http://h:0/", "http://h:99999/", "http://u:p@h/", "http://[::1]/", "http://h/#a",
     "http://h/a b", "http://h/\r\nX: 1", "http://\u00fc/", "http://h/" + "a" * 2000],
)  # fmt: skip
def test_no_endpoints(url: str) -> None:
    with pytest.raises(ValidationError):
        SpeedTestSettings(download_url=url, upload_url="http://h/")
    with pytest.raises(ValidationError):
        SpeedTestSettings(download_url="http://h/", upload_url=url)


def test_endpoints() -> None:
    assert SpeedTestSettings().urls is None
    given = SpeedTestSettings(download_url="https://h:8443/down?n={bytes}&x=%20", upload_url="http://192.0.2.1/up")
    assert given.urls == ("https://h:8443/down?n=25000000&x=%20", "http://192.0.2.1/up")
    assert (given.bytes, given.seconds, given.every_hours) == (25_000_000, 8, 24)

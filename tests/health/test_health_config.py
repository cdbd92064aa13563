"""Settings of the shared parts: defaults, limits, and what is not shown."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from health.config import CollectorSettings, RedisSettings, ScorerSettings, SpeedTestSettings, default_state_dir
from health.registry import SAMPLE_TTL_S


def test_defaults() -> None:
    assert RedisSettings().timeout == 0.25
    assert (CollectorSettings().interval, CollectorSettings().timeout) == (1.0, 0.8)
    assert (ScorerSettings().interval, ScorerSettings().lease) == (1.0, 3.0)
    assert default_state_dir() == Path.home() / ".local/state/vpnexit"


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h", "unix:///run/redis.sock"])
def test_urls(url: str) -> None:
    assert RedisSettings(url=url).url == url


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

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

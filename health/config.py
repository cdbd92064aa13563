"""Settings of the shared parts: Redis, the state directory, collector and scorer."""

import ipaddress
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not an address to listen on: write host:port, for example 127.0.0.1:9101")
    return text


MetricsListen = Annotated[str, AfterValidator(_listen)]


def is_loopback(address: str) -> bool:
    """Whether `host:port` is reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class MetricsSettings(BaseModel):
    """Who may read the numbers of gateways, scorer and collector: whoever sends `token` (None: everybody on loopback).

    The same for all of them; control, which adds up what the gateways carry, sends it. Control's own numbers take an
    API token of scope read.
    """

    model_config = ConfigDict(extra="forbid")
    token: SecretStr | None = None


OPEN = MetricsSettings()


class RedisSettings(BaseModel):
    """Where the registry is. `url` is redis://, rediss:// or unix://; `timeout` seconds for one answer.

    A call with its retry ends within twice that time.
    """

    model_config = ConfigDict(extra="forbid")
    url: Annotated[str, Field(pattern=r"^(redis|rediss|unix)://.")] = "redis://127.0.0.1:6379/0"
    password: SecretStr | None = None
    timeout: Annotated[float, Field(gt=0, le=10)] = 0.25


class CollectorSettings(BaseModel):
    """The collector asks each agent every `interval` seconds and waits `timeout` seconds for its answer.

    Samples live for 5 s, so an interval above 2 s would make nodes come and go.
    """

    model_config = ConfigDict(extra="forbid")
    interval: Annotated[float, Field(ge=0.05, le=2)] = 1.0
    timeout: Annotated[float, Field(gt=0, le=2)] = 0.8
    metrics_listen: MetricsListen = "127.0.0.1:9102"


class ScorerSettings(BaseModel):
    """The scorer computes every `interval` seconds and leads by a lease of `lease` seconds.

    A standby takes over within `lease` + `interval` seconds of its leader's death.
    """

    model_config = ConfigDict(extra="forbid")
    interval: Annotated[float, Field(ge=0.05, le=2)] = 1.0
    lease: Annotated[float, Field(ge=0.2, le=60)] = 3.0
    metrics_listen: MetricsListen = "127.0.0.1:9101"

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.lease < 2 * self.interval:
            raise ValueError("lease must be at least twice the interval, or the leader loses it between two renewals")
        return self


def default_state_dir() -> Path:
    """`~/.local/state/vpnexit`, after the XDG base directory specification."""
    return Path.home() / ".local" / "state" / "vpnexit"

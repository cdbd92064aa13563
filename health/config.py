"""Settings of the shared parts: Redis, the state directory, collector and scorer."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


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

    Samples live for 5 s, so an interval above 2 s would make nodes come and go. Of several collectors on a machine one
    writes, by a lease of `lease` seconds; another takes over within `interval` seconds of its death, and within
    `lease` + `interval` seconds where it is only silent.
    """

    model_config = ConfigDict(extra="forbid")
    interval: Annotated[float, Field(ge=0.05, le=2)] = 1.0
    timeout: Annotated[float, Field(gt=0, le=2)] = 0.8
    lease: Annotated[float, Field(ge=0.2, le=60)] = 3.0

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.lease < 2 * self.interval:
            raise ValueError("lease must be at least twice the interval, or it ends between two renewals")
        return self


class ScorerSettings(BaseModel):
    """The scorer computes every `interval` seconds and leads by a lease of `lease` seconds.

    A standby takes over within `lease` + `interval` seconds of its leader's death.
    """

    model_config = ConfigDict(extra="forbid")
    interval: Annotated[float, Field(ge=0.05, le=2)] = 1.0
    lease: Annotated[float, Field(ge=0.2, le=60)] = 3.0

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.lease < 2 * self.interval:
            raise ValueError("lease must be at least twice the interval, or the leader loses it between two renewals")
        return self


def default_state_dir() -> Path:
    """`~/.local/state/vpnexit`, after the XDG base directory specification."""
    return Path.home() / ".local" / "state" / "vpnexit"

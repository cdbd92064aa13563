"""Settings of the shared parts: Redis, the state directory, collector and scorer."""

from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator


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


def _endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        good = parts.scheme in ("http", "https") and parts.port != 0 and parts.username is None and not parts.fragment
    except ValueError:
        good, host = False, ""
    if not good or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("write a URL such as https://speed.example.org/bytes?n={bytes}, without user and fragment")
    if ":" in host:
        raise ValueError("the tunnels carry IPv4 only: write a name or an IPv4 address")
    return url


Endpoint = Annotated[str, Field(max_length=2000), AfterValidator(_endpoint)]


class SpeedTestSettings(BaseModel):
    """Speed tests of nodes; there are none without an endpoint.

    `download_url` answers GET with at least `bytes` bytes (`{bytes}` in it is replaced by that number), `upload_url`
    takes a POST of as many. Each way ends after `bytes` bytes or `seconds` seconds. A name is looked up through the
    tunnel and must mean public addresses; an address that is written here is meant, whatever it is.

    Every serving node is tested every `every_hours` hours, at moments that are spread; 0: on demand only.
    """

    model_config = ConfigDict(extra="forbid")
    download_url: Endpoint | None = None
    upload_url: Endpoint | None = None
    bytes: Annotated[int, Field(ge=200_000, le=1_000_000_000)] = 25_000_000
    seconds: Annotated[float, Field(ge=0.5, le=60)] = 8.0
    every_hours: Annotated[float, Field(ge=0, le=8760)] = 24.0

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.download_url is None) != (self.upload_url is None):
            raise ValueError("download_url and upload_url belong together: give both, or neither")
        return self

    @property
    def urls(self) -> tuple[str, str] | None:
        """Where to download from and upload to; None where there are no speed tests."""
        if self.download_url is None or self.upload_url is None:
            return None
        return self.download_url.replace("{bytes}", str(self.bytes)), self.upload_url


def default_state_dir() -> Path:
    """`~/.local/state/vpnexit`, after the XDG base directory specification."""
    return Path.home() / ".local" / "state" / "vpnexit"

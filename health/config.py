"""Settings of the shared parts: Redis, the state directory, collector and scorer."""

import ipaddress
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

_SENTINEL = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):([1-9]\d{0,4})")


def _sentinel(text: str) -> str:
    found = _SENTINEL.fullmatch(text)
    if found is None or int(found[2]) > 65535:
        raise ValueError("write HOST:PORT, with [ ] around an IPv6 address (a sentinel's port usually is 26379)")
    return text


SentinelAddress = Annotated[str, AfterValidator(_sentinel)]


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
    """Where the registry is. `timeout` is seconds for one answer; a call with its retry ends within twice that time.

    `url` is redis://HOST:PORT/DATABASE, the same with rediss:// (TLS), or unix:///PATH. With `sentinels` (HOST:PORT
    each) these say where the `master` of that name is, and of the URL only scheme and database count: redis:///0.
    `username` and `password` are those of an ACL user, `sentinel_…` what the sentinels ask for, if anything.

    With TLS a server's certificate must be good by `tls_ca_file` alone (default: the system's authorities), and be for
    the name, or the address, that is dialled; `tls_cert_file` and `tls_key_file` are what is shown of ourselves.
    """

    model_config = ConfigDict(extra="forbid")
    url: Annotated[str, Field(pattern=r"^(redis|rediss|unix)://.")] = "redis://127.0.0.1:6379/0"
    username: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")] | None = None
    password: SecretStr | None = None
    sentinels: tuple[SentinelAddress, ...] = ()
    master: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    sentinel_username: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")] | None = None
    sentinel_password: SecretStr | None = None
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    timeout: Annotated[float, Field(gt=0, le=10)] = 0.25

    @model_validator(mode="after")
    def _complete(self) -> Self:
        fault = next(self._faults(), None)
        if fault is not None:
            raise ValueError(fault)
        return self

    @property
    def place(self) -> str:
        """Where it is, in words, without a password."""
        if self.sentinels:
            return f"{self.master} by the sentinels {', '.join(self.sentinels)}"
        if "@" not in self.url:
            return self.url
        return f"{self.url.partition('://')[0]}://…@{self.url.rpartition('@')[2]}"

    def tls(self) -> ssl.SSLContext | None:
        """What connections are encrypted with; None where they are not.

        Raises ValueError: a file cannot be read, or is not what it should be.
        """
        if not self.url.startswith("rediss://"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca_file)
        except OSError as error:
            raise ValueError(f"redis.tls_ca_file: {self.tls_ca_file}: {_why(error)}") from None
        if self.tls_cert_file is not None:
            try:
                context.load_cert_chain(self.tls_cert_file, self.tls_key_file, password="")  # it would ask the terminal
            except OSError as error:
                files = f"{self.tls_cert_file}, {self.tls_key_file}"
                raise ValueError(f"redis.tls_cert_file and redis.tls_key_file: {files}: {_why(error)}") from None
        return context

    def _faults(self) -> Iterator[str]:
        url = urlsplit(self.url)
        if url.query or url.fragment:
            yield "redis.url: leave out what follows the `?` or `#`: other settings have keys of their own"
        try:
            _ = url.port
        except ValueError:
            yield "redis.url: its port is not a number from 1 to 65535"
        if url.scheme != "unix" and not re.fullmatch(r"(/\d{0,4})?", url.path):
            yield "redis.url: after the port comes the number of a database, or nothing"
        if url.username and self.username:
            yield "redis.url names a user, and redis.username too: remove one of them"
        if url.password and self.password:
            yield "redis.url has a password, and redis.password is set too: remove the one in the URL"
        if self.username and not (self.password or url.password):
            yield "redis.username is set without redis.password"
        yield from self._sentinel_faults(url)
        if (self.tls_ca_file or self.tls_cert_file or self.tls_key_file) and url.scheme != "rediss":
            yield "redis.tls_…_file is set, but redis.url does not begin with rediss://"
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            yield "redis.tls_cert_file and redis.tls_key_file go together: set both or none"

    def _sentinel_faults(self, url: SplitResult) -> Iterator[str]:
        if not self.sentinels:
            if self.master or self.sentinel_username or self.sentinel_password:
                yield "redis.master and redis.sentinel_… mean nothing without redis.sentinels (HOST:PORT, …)"
            elif not url.hostname and url.scheme != "unix":
                yield "redis.url names no host"
            return
        if self.master is None:
            yield "redis.sentinels is set without redis.master, the name by which they know it"
        if url.scheme == "unix" or (url.hostname and "url" in self.model_fields_set):
            yield "redis.url names a server, but redis.sentinels do that: write redis:///0, or rediss:///0 for TLS"
        if self.sentinel_username and not self.sentinel_password:
            yield "redis.sentinel_username is set without redis.sentinel_password"


class CollectorSettings(BaseModel):
    """The collector asks each agent every `interval` seconds and waits `timeout` seconds for its answer.

    Samples live for 5 s, so an interval above 2 s would make nodes come and go. Of several collectors on a machine one
    writes, by a lease of `lease` seconds; another takes over within `interval` seconds of its death, and within
    `lease` + `interval` seconds where it is only silent.
    """

    model_config = ConfigDict(extra="forbid")
    interval: Annotated[float, Field(ge=0.05, le=2)] = 1.0
    timeout: Annotated[float, Field(gt=0, le=2)] = 0.8
    metrics_listen: MetricsListen = "127.0.0.1:9102"
    lease: Annotated[float, Field(ge=0.2, le=60)] = 3.0

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.lease < 2 * self.interval:
            raise ValueError("lease must be at least twice the interval, or it ends between two renewals")
        return self


class ScorerSettings(BaseModel):
    """The scorer computes every `interval` seconds and leads by a lease of `lease` seconds.

    A standby takes over within `lease` + `interval` seconds of its leader's death, on the same machine within
    `interval` seconds.
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


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "no certificate or key in PEM form, not of each other, or locked by a password"
    return error.strerror or str(error)

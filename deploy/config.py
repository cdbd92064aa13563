"""The whole configuration: one TOML file, and every value also as an environment variable, which comes first.

Whatever is wrong ends in one ConfigError of one line: which key, what is wrong with it, what to write. Secrets are
never part of it.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from control.config import ControlSettings, CustomSettings, Name, NordVpnSettings
from deploy.environment import ConfigError, read_environment, suggest, variable, why_unreadable
from gateway.config import GatewaySettings
from health.config import (
    CollectorSettings,
    MetricsSettings,
    RedisSettings,
    ScorerSettings,
    SpeedTestSettings,
    default_state_dir,
    is_loopback,
)

__all__ = ["ConfigError", "Settings", "is_placeholder", "load", "variable"]

_SECRET_NAME = re.compile(r"(password|secret|token|key)$")
_PLACEHOLDER = re.compile(
    r"change[-_ ]?(me|it|this).*|(my|your)?[-_ ]?(password|passwd|secret|token)[0-9]*|pass|admin|root|default|example|"
    r"placeholder|test|todo|none|null|x+|\*+|\.+|-+|0+|1234\d*|<.*>|\{.*\}|\$\{?\w+\}?",
    re.IGNORECASE,
)


class Settings(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(extra="forbid")

    state_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Field(
        default_factory=default_state_dir
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    machine: Name | None = Field(default=None, description="this machine's name; the same as control.machine")
    gateway: GatewaySettings = GatewaySettings()
    control: ControlSettings = Field(default_factory=ControlSettings)
    nordvpn: NordVpnSettings = NordVpnSettings()
    custom: CustomSettings = CustomSettings()
    redis: RedisSettings = RedisSettings()
    collector: CollectorSettings = CollectorSettings()
    scorer: ScorerSettings = ScorerSettings()
    metrics: MetricsSettings = MetricsSettings()
    speed_test: SpeedTestSettings = SpeedTestSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed in (the file's values) gives way to the environment."""
        return (_Environment(settings_cls), init_settings)

    @model_validator(mode="after")
    def _one_machine(self) -> Self:
        if self.machine is not None and "machine" not in self.control.model_fields_set:
            self.control = self.control.model_copy(update={"machine": self.machine})
        if self.machine not in (None, self.control.machine):
            raise ValueError("machine and control.machine differ: give one of them")
        return self

    @model_validator(mode="after")
    def _passwords_in_the_state_directory(self) -> Self:
        if self.gateway.upstream_passwords is None:
            self.gateway = self.gateway.model_copy(update={"upstream_passwords": self.state_dir / "upstreams"})
        return self

    @model_validator(mode="after")
    def _metrics_beyond_loopback_take_a_token(self) -> Self:
        for name in ("gateway", "scorer", "collector"):
            address = getattr(self, name).metrics_listen
            if self.metrics.token is None and not is_loopback(address):
                raise ValueError(
                    f"{name}.metrics_listen: {address} is beyond loopback, where metrics take a token: "
                    f"give metrics.token, for example as a file ({variable('metrics', 'token')}_FILE)"
                )
        return self

    @model_validator(mode="after")
    def _real_secrets(self) -> Self:
        for key, secret in _secrets(self, ""):
            if is_placeholder(secret):
                raise ValueError(f"{key}: this is a placeholder, not a secret: put a random one there")
        return self


def is_placeholder(secret: str) -> bool:
    """Whether nobody can have meant `secret` as one."""
    return not secret or _PLACEHOLDER.fullmatch(secret) is not None


def load(file: Path | None = None, state_dir: Path | None = None) -> Settings:
    """The settings of this process, from `file` and the environment. `state_dir` goes before both, in children too.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is wrong.
    """
    if state_dir is not None:
        os.environ[variable("state_dir")] = str(state_dir)
    values = _read_toml(file) if file is not None else {}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, file)) from None


class _Environment(PydanticBaseSettingsSource):
    """Reads VPNEXIT_… and VPNEXIT_…_FILE."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # all fields are read at once, by __call__

    def __call__(self) -> dict[str, Any]:
        return read_environment(os.environ, self.settings_cls)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration file {file}: {why_unreadable(error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def _secrets(model: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, SecretStr):
            yield prefix + name, value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from _secrets(value, f"{prefix}{name}.")


def _explain(error: ValidationError, file: Path | None) -> str:
    """One line about the first thing that is wrong."""
    details = error.errors(include_url=False)
    first = details[0]
    path = first["loc"]
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if not path:
        return message + more
    where = _origin(path, file)
    if first["type"] == "extra_forbidden":
        names = tuple(str(part) for part in path)
        return f"{_dotted(*path)}{where}: there is no such key{suggest(Settings, names, _dotted)}{more}"
    return f"{_dotted(*path)}{where}: {message}{_got(path, first['input'], message)}{more}"


def _origin(path: Sequence[str | int], file: Path | None) -> str:
    for length in range(len(path), 0, -1):
        for name in (variable(*path[:length]), variable(*path[:length]) + "_FILE"):
            if name in os.environ:
                return f" (from {name})"
    return f" (in {file})" if file is not None else ""


def _got(path: Sequence[str | int], value: Any, message: str) -> str:
    text = str(value)
    # An address may carry a password: redis://user:password@host.
    secret = "@" in text or any(isinstance(part, str) and _SECRET_NAME.search(part) for part in path)
    if secret or not isinstance(value, str | int | float) or len(text) > 80 or text in message:
        return ""
    return f" (it is {value!r})"


def _dotted(*path: str | int) -> str:
    return ".".join(str(part) for part in path)

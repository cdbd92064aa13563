"""What a worker is told when it starts, as JSON that is handed from process to process.

Whoever reads the configuration writes it, into the `plan` of the supervisor, who hands it on unread: it runs for a
long time, while its workers are started anew with new code. Secrets are in it: it goes through pipes, never on a
command line or in an environment.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, SecretStr

from gateway.config import GatewaySettings
from gateway.guesses import Entry
from health.config import RedisSettings


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is told first. `sockets` are inherited descriptors, `alone` says that nobody else serves now.

    `failures` are the log-ins that failed lately; None where the supervisor is an older one, which hands on no words.
    """

    settings: GatewaySettings
    redis: RedisSettings
    machine: str
    log_level: str
    sockets: tuple[int, ...]
    alone: bool
    failures: Sequence[Entry] | None = None


def dump(
    settings: GatewaySettings,
    redis: RedisSettings,
    machine: str,
    log_level: str,
    reload: Sequence[str],
    metrics_token: SecretStr | None = None,
) -> bytes:
    """The plan of a gateway. `reload` is the command that makes a new one: its last word, added by the supervisor, is
    the number of the descriptor to write it to.
    """
    worker = {"settings": settings, "redis": redis, "machine": machine, "log_level": log_level}
    plan = {
        "listen": settings.listen,
        "metrics_listen": settings.metrics_listen,
        "workers": settings.workers,
        "drain_timeout": settings.drain_timeout,
        "log_level": log_level,
        "reload": reload,
        "worker": worker,
    }
    # A supervisor of an older version takes only the keys it knows.
    more = {"metrics_token": metrics_token} if metrics_token is not None else {}
    return json.dumps(_plain(plan | more)).encode()


def read(text: bytes) -> Start:
    """What `dump` made of it, and the supervisor added. Raises ValueError."""
    told = json.loads(text)
    worker = told["worker"]
    return Start(
        GatewaySettings.model_validate_json(json.dumps(worker["settings"])),
        RedisSettings.model_validate_json(json.dumps(worker["redis"])),
        worker["machine"],
        worker["log_level"],
        tuple(told["sockets"]),
        told["alone"],
        told.get("failures"),
    )


def _plain(value: Any) -> Any:
    """As JSON has it, secrets in clear; what JSON has no word for (addresses, paths) as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in value.model_fields_set}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)

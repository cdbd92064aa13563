"""Shows what a process of this package counts: prometheus-client's own registry, on a small listener.

Besides our numbers that registry has the process's (descriptors, memory, CPU time, start), where Linux tells them.
"""

import socket
import time
from typing import Self

import structlog
from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest

from health.config import MetricsSettings
from health.monitor import Monitor

log = structlog.get_logger()

PATIENCE_S = 5.0
_BACKLOG = 64


class Exposed:
    """The numbers at `address` (host:port), while the block lasts and they are to be shown.

    Where that cannot be listened on it is tried again with the next `show`, and logged once it has failed for 5 s:
    health matters more than its numbers, and another process of ours may be about to leave the address.
    """

    def __init__(self, address: str, settings: MetricsSettings) -> None:
        token = settings.token.get_secret_value() if settings.token is not None else ""
        self._monitor = Monitor(lambda: True, _show, _bind, token)
        self._address = address
        self._failing_since: float | None = None
        self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.close()

    async def show(self, wanted: bool) -> None:
        """Whether they are to be shown; to be said again and again."""
        if not wanted:
            self._monitor.close()
            self._failing_since = None
        elif not self._monitor.address:
            await self._listen()

    async def _listen(self) -> None:
        try:
            await self._monitor.listen(self._address)
        except OSError as error:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            if now - self._failing_since >= PATIENCE_S and not self._told:
                log.error("metrics are not shown", listen=self._address, reason=error.strerror or str(error))
                self._told = True
        else:
            log.info("metrics", listen=self._address)
            self._failing_since, self._told = None, False


async def _show() -> bytes:
    return generate_latest(REGISTRY)


def _bind(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return socket.create_server(
        (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
    )

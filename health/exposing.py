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
from health.lease import Lease
from health.monitor import Monitor

log = structlog.get_logger()

PATIENCE_S = 5.0
_BACKLOG = 64


class Exposed:
    """The numbers at `address` (host:port), while the block lasts and the address is this process's.

    Of several processes of one role on a machine it is that of the one that works, so that Prometheus finds it where
    the last one was. Where it cannot be listened on that is tried again, and logged once it has failed for 5 s: health
    matters more than its numbers, and another one may be about to leave.
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

    async def follow(self, lease: Lease) -> None:
        """To be called after each look at `lease`."""
        if lease.beside:
            self._monitor.close()
            self._failing_since = None
        elif not self._monitor.address:
            await self._listen(stands_by=lease.held is False)

    async def _listen(self, *, stands_by: bool) -> None:
        try:
            await self._monitor.listen(self._address)
        except OSError as error:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            # Two may stand by for one on another machine.
            if now - self._failing_since >= PATIENCE_S and not self._told and not stands_by:
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

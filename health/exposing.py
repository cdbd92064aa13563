"""Shows what a process of this package counts: prometheus-client's own registry, on a small listener.

Besides our numbers that registry has the process's (descriptors, memory, CPU time, start), where Linux tells them.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import structlog
from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest

from health.config import MetricsSettings
from health.monitor import Monitor

log = structlog.get_logger()

RETRY_S = 5.0
_BACKLOG = 64


@contextlib.asynccontextmanager
async def exposing(address: str, settings: MetricsSettings) -> AsyncIterator[None]:
    """Answer on `address` (host:port) while inside.

    Where it cannot be listened on, that is logged once and tried again every 5 s: health matters more than its numbers.
    """
    token = settings.token.get_secret_value() if settings.token is not None else ""
    monitor = Monitor(lambda: True, _show, _bind, token)
    listening = asyncio.create_task(_listen(monitor, address), name="metrics")
    try:
        yield
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        monitor.close()


async def _listen(monitor: Monitor, address: str) -> None:
    told = False
    while True:
        try:
            await monitor.listen(address)
        except OSError as error:
            if not told:
                log.error("metrics are not shown", listen=address, reason=error.strerror or str(error))
            told = True
            await asyncio.sleep(RETRY_S)
        else:
            log.info("metrics", listen=address)
            return


async def _show() -> bytes:
    return generate_latest(REGISTRY)


def _bind(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return socket.create_server(
        (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
    )

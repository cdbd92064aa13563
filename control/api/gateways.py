"""What the gateways count, asked of their metrics pages (Prometheus text format), for /api/stats.

A gateway that does not answer is left out and told; one answer serves all who ask within a second.
"""

import asyncio
import time
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from control.load import bearer

TIMEOUT_S = 0.5
KEPT_S = 1.0
MOST_BYTES = 4 * 1024 * 1024
OPEN = "vpnexit_gateway_open_connections"
BYTES = "vpnexit_gateway_bytes_total"


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over the gateways that answered, and the addresses of those that did not."""

    clients: int = 0
    traffic: int = 0
    silent: tuple[str, ...] = ()


class Gateways:
    """The gateways at `addresses` (host:port of their metrics), which take `token` if it is not empty."""

    def __init__(self, addresses: tuple[str, ...], token: str = "") -> None:
        self._addresses = addresses
        self._token = token
        self._last: tuple[float, Counts] = (-KEPT_S, Counts())
        self._alone = asyncio.Lock()

    async def counts(self) -> Counts:
        """Within half a second. Never raises."""
        async with self._alone:
            at, counts = self._last
            if time.monotonic() - at >= KEPT_S:
                counts = await self._ask()
                self._last = (time.monotonic(), counts)
            return counts

    async def _ask(self) -> Counts:
        if not self._addresses:
            return Counts()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False, headers=bearer(self._token)) as session:
            found = await asyncio.gather(*(self._one(session, address) for address in self._addresses))
        told = [counts for counts in found if counts is not None]
        return Counts(
            clients=sum(clients for clients, _ in told),
            traffic=sum(traffic for _, traffic in told),
            silent=tuple(a for a, counts in zip(self._addresses, found, strict=True) if counts is None),
        )

    async def _one(self, session: aiohttp.ClientSession, address: str) -> tuple[int, int] | None:
        try:
            async with session.get(f"http://{address}/metrics", allow_redirects=False) as answer:
                text = await answer.content.readexactly(MOST_BYTES) if answer.status == 200 else b""
        except asyncio.IncompleteReadError as error:
            text = error.partial
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None
        try:
            return read_counts(text.decode())
        except ValueError:
            return None


def read_counts(text: str) -> tuple[int, int]:
    """Clients connected and bytes carried, from one gateway's page. Raises ValueError where they are not there."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in (OPEN, BYTES):
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    if OPEN not in found:
        raise ValueError("that is no gateway's page of metrics")
    return int(found[OPEN]), int(found.get(BYTES, 0))

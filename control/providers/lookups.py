"""Addresses of VPN servers by name: the one look-up outside the tunnels, and what was answered before.

Names with many addresses are answered with some of them at a time, so an address is gone only when it was not among the
answers for an hour, and was looked for several times.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import structlog

from control.providers import ProviderError
from control.providers.servers import endpoint_address

log = structlog.get_logger()

AGAIN_S = 600.0
GONE_S = 3600.0
LOOKS = 3
MAX_ADDRESSES = 64
Resolve = Callable[[str], Awaitable[list[str]]]
# A look-up that timed out keeps its thread until the resolver gives up: let files not wait behind it.
_THREADS = ThreadPoolExecutor(4, thread_name_prefix="look-up")


@dataclass(slots=True)
class _Host:
    """When each address was last answered, and when answers came; monotonic seconds."""

    addresses: dict[str, float] = field(default_factory=dict)
    looks: list[float] = field(default_factory=list)
    tried: float = float("-inf")


async def resolve(host: str) -> list[str]:
    """The IPv4 addresses of `host`, by this machine's resolver. Raises OSError."""
    look = partial(socket.getaddrinfo, host, None, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    found = await asyncio.get_running_loop().run_in_executor(_THREADS, look)
    return [str(address[0]) for *_, address in found]


class Lookups:
    """`clock` is monotonic; `timeout` in seconds."""

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic, resolve: Resolve = resolve) -> None:
        self._timeout = timeout
        self._clock = clock
        self._resolve = resolve
        self._hosts: dict[str, _Host] = {}
        self._behind: asyncio.Task[None] | None = None

    async def addresses(self, host: str) -> list[str]:
        """The addresses of `host` that a VPN server can have. Raises ProviderError."""
        known = self._hosts.setdefault(host, _Host())
        known.tried = self._clock()
        try:
            async with asyncio.timeout(self._timeout):
                answered = await self._resolve(host)
        except TimeoutError:
            raise ProviderError(f"{host}: its address could not be looked up in time") from None
        except (OSError, UnicodeError) as error:
            raise ProviderError(f"{host}: {getattr(error, 'strerror', None) or error}") from None
        found = list(dict.fromkeys(address for address in answered if _usable(address)))[:MAX_ADDRESSES]
        if not found:
            raise ProviderError(f"{host}: it has no IPv4 address that a VPN server can have")
        now = self._clock()
        known.addresses |= dict.fromkeys(found, now)
        known.looks = [*known.looks, now][-LOOKS:]
        return found

    def gone(self, host: str, address: str) -> bool:
        """Whether `host` does not have `address` any more; looks again behind it when that is due. Never waits."""
        known = self._hosts.setdefault(host, _Host())
        last = known.addresses.setdefault(address, self._clock())
        if len(known.addresses) > MAX_ADDRESSES:
            known.addresses = {address: last}
        looked_since = [at for at in known.looks if at > last]
        return len(looked_since) >= LOOKS and known.looks[-1] - last >= GONE_S

    def look_behind(self, hosts: Iterable[str]) -> None:
        """Look `hosts` up without waiting for it, those that are due."""
        if self._behind is not None and not self._behind.done():
            return
        now = self._clock()
        due = sorted({host for host in hosts if now - self._hosts.setdefault(host, _Host()).tried >= AGAIN_S})
        if due:
            self._behind = asyncio.create_task(self._look(due), name="look-ups of VPN servers")

    async def close(self) -> None:
        if self._behind is not None:
            self._behind.cancel()
            await asyncio.gather(self._behind, return_exceptions=True)

    async def _look(self, hosts: list[str]) -> None:
        for host in hosts:
            try:
                await self.addresses(host)
            except ProviderError as error:
                log.warning("lookup_failed", reason=str(error))


def _usable(address: str) -> bool:
    try:
        endpoint_address(address)
    except ValueError:
        return False
    return True

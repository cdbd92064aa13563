"""How the exit looks from outside: its address and country, asked for through the tunnel.

Asked once for each generation of the tunnel and about every hour after that: who is asked is somebody else's service.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from health.agent.insights import Source, UnknownError, is_number, parse, source

_WITHIN_S = 10.0
_AGAIN_S = 3600.0
_FIRST_RETRY_S = 30.0
_JITTER = 0.1
_LONGEST = 64 * 1024

Resolve = Callable[[str], Awaitable[tuple[str, ...]]]


class Outside:
    """What was seen last; both are empty until it is known, and again with each generation."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self.address = ""
        self.country = ""
        self._chance = chance
        self._task: asyncio.Task[None] | None = None

    def renew(self, url: str, resolve: Resolve) -> None:
        """A new generation of the tunnel: ask `url` (empty: nobody) now, and then now and again."""
        self.close()
        self.address = self.country = ""
        if url:
            self._task = asyncio.get_running_loop().create_task(self._keep_asking(source(url), resolve))

    def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep_asking(self, who: Source, resolve: Resolve) -> None:
        retry = _FIRST_RETRY_S
        while True:
            try:
                self.address, self.country = await ask(who, resolve)
                pause, retry = _AGAIN_S, _FIRST_RETRY_S
            except UnknownError:
                pause, retry = retry, min(retry * 2, _AGAIN_S)
            await asyncio.sleep(pause * (1 + _JITTER * (2 * self._chance() - 1)))


async def ask(who: Source, resolve: Resolve) -> tuple[str, str]:
    """Address and country (two letters, lower case) as `who` sees us. Raises UnknownError within 10 s."""
    try:
        async with asyncio.timeout(_WITHIN_S):
            addresses = (who.host,) if is_number(who.host) else await resolve(who.host)
            if not addresses:
                raise UnknownError(f"{who.host} is not resolved")
            return parse(await _get(who, addresses[0]))
    except TimeoutError:
        raise UnknownError(f"{who.host} did not answer in time") from None
    except OSError as error:
        raise UnknownError(f"{who.host} is not reached: {error}") from None


async def _get(who: Source, address: str) -> bytes:
    context = await asyncio.to_thread(ssl.create_default_context) if who.tls else None
    name = who.host if who.tls else None
    reader, writer = await asyncio.open_connection(address, who.port, ssl=context, server_hostname=name)
    try:
        # Of HTTP/1.0, so that the answer ends with the connection and comes in one piece.
        request = f"GET {who.path} HTTP/1.0\r\nHost: {who.host}\r\nAccept: application/json\r\n\r\n"
        writer.write(request.encode("ascii"))
        answer = b""
        while len(answer) < _LONGEST and (part := await reader.read(_LONGEST)):
            answer += part
        return answer
    finally:
        writer.transport.abort()

"""GET and JSON, bounded in time and size, errors in plain words. Knows nothing of VPNs."""

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from control.providers import ProviderError

MAX_ANSWER = 64 * 1024 * 1024
_THREAD_ABOVE = 256 * 1024


class StatusError(ProviderError):
    """The API answered, but not with 200."""

    def __init__(self, path: str, status: int) -> None:
        super().__init__(f"{path} answered {status}")
        self.status = status


class Api:
    """One HTTP API. The session is made at the first call."""

    def __init__(self, base: str, timeout: float) -> None:
        self._base = base
        self._timeout = aiohttp.ClientTimeout(total=4 * timeout, connect=timeout, sock_read=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str, query: Mapping[str, str] | None = None, login: tuple[str, str] | None = None) -> Any:
        """The decoded answer. Raises ProviderError; its text never holds credentials."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        try:
            async with self._session.get(
                self._base + path, params=query, headers=_basic(login), allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise StatusError(path, response.status)
                return await _decode(await self._read(response, path), path)
        except TimeoutError:
            raise ProviderError(f"{path} did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderError(f"{path} failed: {str(error)[:200] or type(error).__name__}") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _read(self, response: aiohttp.ClientResponse, path: str) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(65536):
            body += chunk
            if len(body) > MAX_ANSWER:
                raise ProviderError(f"{path} answered more than {MAX_ANSWER} bytes")
        return bytes(body)


def _basic(login: tuple[str, str] | None) -> dict[str, str]:
    # RFC 7617.
    return {"Authorization": "Basic " + base64.b64encode(":".join(login).encode()).decode()} if login else {}


async def _decode(body: bytes, path: str) -> Any:
    try:
        # The whole list of servers is some 20 MB: decoding it would hold up the loop.
        return await asyncio.to_thread(json.loads, body) if len(body) > _THREAD_ABOVE else json.loads(body)
    except (ValueError, RecursionError):
        raise ProviderError(f"{path} answered something that is not JSON") from None

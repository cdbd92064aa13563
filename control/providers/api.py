"""GET and JSON, bounded in time and size, errors in plain words. Knows nothing of VPNs.

Who asks too often is told so by the API (429) and asks nothing until the time it named; a path that did not answer in
time is left alone for a while, and so is an API that cannot be reached: whoever has an older answer uses it at once.
"""

import asyncio
import base64
import json
import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from control import counts
from control.providers import ProviderError

MAX_ANSWER = 64 * 1024 * 1024
SILENT_S = 30.0
UNREACHABLE_S = 5.0
ASKED_TOO_OFTEN_S = 60.0
LONGEST_S = 3600.0
_THREAD_ABOVE = 256 * 1024


class StatusError(ProviderError):
    """The API answered, but not with 200."""

    def __init__(self, path: str, status: int, more: str = "") -> None:
        super().__init__(f"{path} answered {status}{more}")
        self.status = status


class Api:
    """One HTTP API. The session is made at the first call. `clock` is monotonic, `wall` Unix seconds."""

    def __init__(
        self,
        base: str,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._base = base
        self._timeout = timeout
        self._clock = clock
        self._wall = wall
        self._session: aiohttp.ClientSession | None = None
        self._quiet: dict[str, tuple[float, str]] = {}

    async def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        login: tuple[str, str] | None = None,
        patience: float = 1.0,
    ) -> Any:
        """The decoded answer. Takes `patience` times the time-out at most.

        Raises ProviderError; its text never holds credentials.
        """
        self._check(path)
        counts.PROVIDER_REQUESTS.inc()
        if self._session is None:
            self._session = aiohttp.ClientSession()
        limit = aiohttp.ClientTimeout(total=patience * self._timeout, connect=self._timeout, sock_read=self._timeout)
        try:
            async with self._session.get(
                self._base + path, params=query, headers=_basic(login), allow_redirects=False, timeout=limit
            ) as response:
                if response.status != 200:
                    raise self._refusal(path, response)
                return await _decode(await self._read(response, path), path, response.content_type)
        except TimeoutError:
            counts.PROVIDER_ERRORS.labels("timeout").inc()
            raise self._rest(path, SILENT_S, f"{path} did not answer in time") from None
        except aiohttp.ClientConnectorError as error:
            counts.PROVIDER_ERRORS.labels("unreachable").inc()
            raise self._rest("", UNREACHABLE_S, f"{path} failed: {str(error)[:200]}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            counts.PROVIDER_ERRORS.labels("answer").inc()
            raise ProviderError(f"{path} failed: {str(error)[:200] or type(error).__name__}") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _check(self, path: str) -> None:
        for subject in ("", path):
            until, why = self._quiet.get(subject, (0.0, ""))
            left = until - self._clock()
            if left > 0:
                raise ProviderError(f"{why}; asked again in {math.ceil(left)} s")

    def _rest(self, subject: str, seconds: float, why: str) -> ProviderError:
        self._quiet[subject] = (self._clock() + seconds, why)
        return ProviderError(why)

    def _refusal(self, path: str, response: aiohttp.ClientResponse) -> StatusError:
        told = response.headers.get("Retry-After")
        if response.status == 429 or (response.status == 503 and told is not None):
            counts.PROVIDER_ERRORS.labels("asked_too_often").inc()
            seconds = retry_after(told, self._wall())
            error = StatusError(path, response.status, f" (asked too often): nothing is asked for {seconds:.0f} s")
            self._quiet[""] = (self._clock() + seconds, f"{path} answered {response.status} (asked too often)")
            return error
        counts.PROVIDER_ERRORS.labels("status").inc()
        return StatusError(path, response.status)

    async def _read(self, response: aiohttp.ClientResponse, path: str) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(65536):
            body += chunk
            if len(body) > MAX_ANSWER:
                counts.PROVIDER_ERRORS.labels("answer").inc()
                raise ProviderError(f"{path} answered more than {MAX_ANSWER} bytes")
        return bytes(body)


def retry_after(text: str | None, now: float) -> float:
    """The seconds that a Retry-After field asks for (RFC 9110 section 10.2.3), from 1 to 3600; 60 without a usable one.

    `now` is Unix seconds.
    """
    if text is None:
        return ASKED_TOO_OFTEN_S
    try:
        seconds = float(int(text)) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return ASKED_TOO_OFTEN_S
    return min(max(seconds, 1.0), LONGEST_S)


def _basic(login: tuple[str, str] | None) -> dict[str, str]:
    # RFC 7617.
    return {"Authorization": "Basic " + base64.b64encode(":".join(login).encode()).decode()} if login else {}


async def _decode(body: bytes, path: str, kind: str) -> Any:
    try:
        # The whole list of servers is some 20 MB: decoding it would hold up the loop.
        return await asyncio.to_thread(json.loads, body) if len(body) > _THREAD_ABOVE else json.loads(body)
    except (ValueError, RecursionError):
        what = "a web page" if kind == "text/html" else "something"
        counts.PROVIDER_ERRORS.labels("answer").inc()
        raise ProviderError(f"{path} answered {what} that is not JSON") from None

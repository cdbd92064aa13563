"""Is a program ready? Questions a supervisor asks again and again until the answer is yes.

A probe returns whether it is ready; OSError means not yet.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

Probe = Callable[[], Awaitable[bool]]


def tcp_open(host: str, port: int) -> Probe:
    """Ready when something accepts connections there."""

    async def probe() -> bool:
        _, writer = await asyncio.open_connection(host, port)
        await _close(writer)
        return True

    return probe


def unix_open(path: Path) -> Probe:
    """Ready when something accepts connections on that Unix stream socket."""

    async def probe() -> bool:
        _, writer = await asyncio.open_unix_connection(path)
        await _close(writer)
        return True

    return probe


def http_ok(host: str, port: int, target: str, good: Collection[int] = (200,)) -> Probe:
    """Ready when `GET target` is answered with one of the statuses in `good`."""

    async def probe() -> bool:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            words = (await reader.readline()).split()
            return len(words) > 1 and words[1].isdigit() and int(words[1]) in good
        finally:
            await _close(writer)

    return probe


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()

"""Measures what one node's tunnel carries: a download and an upload over sockets that its agent made.

Redirects are not followed. What is received is counted and thrown away.
"""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from health import speed_line
from health.agent_client import AgentClient, AgentError
from health.config import SpeedTestSettings
from health.reasons import Reason
from health.speed_line import SpeedError, explained

# Less than this within the whole time is no measurement of a line.
LEAST_BYTES = 100_000
_CHUNK = bytes(65_536)
_TCP_INFO_BYTES = 152  # struct tcp_info of linux/tcp.h, up to tcpi_min_rtt (Linux 4.9)
_ACKED, _MIN_RTT = 120, 148
_NO_RTT = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Measured:
    """Megabits (10^6 bits) per second and milliseconds; None was not measured, and `reason` and `error` say why.

    `moved` counts the bytes of payload that went both ways.
    """

    download_mbps: float | None = None
    upload_mbps: float | None = None
    latency_ms: float | None = None
    reason: Reason = Reason.OK
    error: str = ""
    moved: int = 0


def longest(settings: SpeedTestSettings) -> float:
    """Seconds that a test takes at the most."""
    return 2 * (speed_line.CONNECT_S + 2 * settings.seconds) + speed_line.CONNECT_S


async def measure(
    settings: SpeedTestSettings, node: str, path: str, connect: Callable[..., AgentClient] = AgentClient
) -> Measured:
    """Test `node`, whose agent listens at `path`. Never raises for what the node or the endpoint does."""
    run = _Run(settings)
    try:
        async with asyncio.timeout(longest(settings)), _agent(connect, node, path) as (agent, lost):
            await _unless(lost, run.all(agent))
    except SpeedError as error:
        return replace(run.measured, reason=error.reason, error=str(error))
    except AgentError as error:
        return replace(run.measured, reason=Reason.NODE_DOWN, error=f"the node's agent: {error}")
    except TimeoutError:
        return replace(run.measured, reason=Reason.TARGET_TIMEOUT, error="the test took too long")
    return run.measured


@asynccontextmanager
async def _agent(
    connect: Callable[..., AgentClient], node: str, path: str
) -> AsyncIterator[tuple[AgentClient, "asyncio.Future[str]"]]:
    """A connection to the node's agent; the future gets what happened to the node once it does not serve any more."""
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def gone(what: str) -> None:
        if not lost.done():
            lost.set_result(what)

    agent = connect(
        path,
        on_state=lambda tunnel, _: gone(f"its tunnel went {tunnel}"),
        on_close=lambda: gone("its agent is gone"),
    )
    try:
        hello = await agent.connect()
        if hello.node != node:
            raise AgentError(f"it says it is {hello.node!r}")
        if hello.tunnel != "up":
            raise AgentError(f"the tunnel is {hello.tunnel}")
        yield agent, lost
    finally:
        agent.close()
        lost.cancel()


async def _unless(lost: "asyncio.Future[str]", work: Awaitable[None]) -> None:
    """Do `work`, unless the node is lost meanwhile: its sockets would say nothing for a long time."""
    task = asyncio.ensure_future(work)
    both: tuple[asyncio.Future[Any], ...] = (task, lost)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        else:
            raise SpeedError(Reason.NODE_LOST, f"the node was lost in the middle of the test: {lost.result()}")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass
class _Run:
    """One test. `measured` grows as it goes on."""

    settings: SpeedTestSettings
    measured: Measured = field(default_factory=Measured)

    async def all(self, agent: AgentClient) -> None:
        """Download, then upload. Raises SpeedError or AgentError."""
        urls = self.settings.urls
        if urls is None:
            raise SpeedError(Reason.INTERNAL, "no endpoint is configured on this machine (speed_test.download_url)")
        for url, step in zip(urls, (self._download, self._upload), strict=True):
            async with speed_line.connection(agent, urlsplit(url).hostname or "") as (session, ours):
                with explained():
                    await step(session, url, ours)

    async def _download(self, session: aiohttp.ClientSession, url: str, ours: socket.socket) -> None:
        wanted, seconds = self.settings.bytes, self.settings.seconds
        async with asyncio.timeout(speed_line.CONNECT_S + seconds):
            response = await session.get(url, allow_redirects=False)
        began, got, chunk = time.monotonic(), 0, b""
        try:
            _check(response)
            if response.content_type == "text/html":
                raise SpeedError(Reason.TARGET_PROTOCOL, "the endpoint answered with an HTML page")
            async with asyncio.timeout(seconds):
                while got < wanted and (chunk := await response.content.readany()):
                    got += len(chunk)
        except TimeoutError:
            chunk = b"-"
        finally:
            took = time.monotonic() - began
            self._heard(ours)
            self._moved(got)
            response.close()
        if not chunk:
            raise SpeedError(Reason.TARGET_PROTOCOL, f"the endpoint sent {got:,} bytes and ended, of {wanted:,}")
        if got < LEAST_BYTES:
            raise SpeedError(Reason.TARGET_TIMEOUT, f"only {got:,} bytes came in {seconds:g} s")
        self.measured = replace(self.measured, download_mbps=_mbps(got, took))

    async def _upload(self, session: aiohttp.ClientSession, url: str, ours: socket.socket) -> None:
        wanted, seconds = self.settings.bytes, self.settings.seconds
        body = _Body(wanted)
        asked = asyncio.ensure_future(
            session.post(
                url,
                data=body.chunks(),
                allow_redirects=False,
                headers={"Content-Length": str(wanted), "Content-Type": "application/octet-stream"},
            )
        )
        both: tuple[asyncio.Future[Any], ...] = (asked, body.begun)
        try:
            await asyncio.wait(both, timeout=speed_line.CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            if not body.begun.done() and not asked.done():
                raise SpeedError(
                    Reason.TARGET_TIMEOUT, f"no connection to the endpoint within {speed_line.CONNECT_S:g} s"
                )
            await asyncio.wait({asked}, timeout=seconds)
            took = time.monotonic() - body.started
            if answered := asked.done():
                _check(asked.result())
            # What the peer's kernel has confirmed, head included: what lies in our own buffers has not gone anywhere.
            acked = self._heard(ours)
        finally:
            body.begun.cancel()
            asked.cancel()
            for response in await asyncio.gather(asked, return_exceptions=True):
                if isinstance(response, aiohttp.ClientResponse):
                    response.close()
        got = min(acked, wanted)
        self._moved(got)
        if answered and body.sent < wanted:
            raise SpeedError(Reason.TARGET_PROTOCOL, f"the endpoint answered after {got:,} of {wanted:,} bytes")
        if got < LEAST_BYTES:
            raise SpeedError(Reason.TARGET_TIMEOUT, f"only {got:,} bytes were taken in {seconds:g} s")
        self.measured = replace(self.measured, upload_mbps=_mbps(got, took))

    def _moved(self, count: int) -> None:
        self.measured = replace(self.measured, moved=self.measured.moved + count)

    def _heard(self, ours: socket.socket) -> int:
        """Note the connection's round trip; the bytes of ours that the peer has confirmed."""
        try:
            info = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return 0
        if len(info) < _TCP_INFO_BYTES:
            return 0
        (acked,), (micros,) = struct.unpack_from("=Q", info, _ACKED), struct.unpack_from("=I", info, _MIN_RTT)
        if micros != _NO_RTT:
            known = self.measured.latency_ms
            best = micros / 1000 if known is None else min(known, micros / 1000)
            self.measured = replace(self.measured, latency_ms=best)
        return int(acked)


class _Body:
    """What is uploaded. `begun` is done once the first piece is asked for, at `started`."""

    def __init__(self, size: int) -> None:
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started = time.monotonic()
        self.sent = 0
        self._size = size

    async def chunks(self) -> AsyncIterator[bytes]:
        self.started = time.monotonic()
        if not self.begun.done():
            self.begun.set_result(None)
        while self.sent < self._size:
            piece = _CHUNK[: self._size - self.sent]
            self.sent += len(piece)
            yield piece
            await asyncio.sleep(0)  # a fast line takes it without ever waiting, and the loop has others to serve


def _check(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if 300 <= status < 400:
        text = f"the endpoint answered {status}: redirects are not followed, configure where it leads to"
        raise SpeedError(Reason.TARGET_PROTOCOL, text)
    if not 200 <= status < 300:
        raise SpeedError(Reason.TARGET_PROTOCOL, f"the endpoint answered {status}")


def _mbps(count: int, seconds: float) -> float:
    return round(count * 8 / 1_000_000 / max(seconds, 0.001), 3)

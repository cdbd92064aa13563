"""A gateway worker: listens, keeps its picture of the fleet fresh, drains on SIGTERM."""

import asyncio
import contextlib
import errno
import signal
import socket

import structlog
from aiohttp import web

from gateway.auth import Authenticator
from gateway.config import GatewaySettings
from gateway.dial import Dialler
from gateway.front import serve
from gateway.metrics import Metrics, metrics_app
from gateway.poller import Poller
from gateway.pools import Fleet
from gateway.session import Session, Worker
from health.config import RedisSettings
from health.registry import Registry

log = structlog.get_logger()

BACKLOG = 4096
ACCEPT_TURNS = 64
ACCEPT_PAUSE_S = 0.1
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """One listening socket. Pauses when descriptors run out instead of spinning."""

    def __init__(self, worker: Worker, address: str) -> None:
        self._worker = worker
        self._sock = listening_socket(address)
        self._poller = worker.poller
        self._poller.register(self._sock.fileno(), self._ready)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._poller.unregister(self._sock.fileno())
            self._sock.close()

    def _ready(self, _events: int = 0) -> None:
        if self._sock.fileno() < 0:
            return
        for _ in range(ACCEPT_TURNS):
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    log.warning("accept paused", reason=error.strerror)
                    self._poller.loop.call_later(ACCEPT_PAUSE_S, self._ready)
                    return
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Session(self._worker, sock, peer).start(serve)
        self._poller.loop.call_soon(self._ready)


def listening_socket(address: str) -> socket.socket:
    """A non-blocking listening socket on `host:port`. Raises OSError, with the address in its text."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, int(port)))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    return sock


async def run(settings: GatewaySettings, redis: RedisSettings, machine: str) -> None:
    """Serve until SIGTERM or SIGINT, then drain for at most `drain_timeout` seconds.

    Raises OSError when an address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    poller = Poller(loop)
    fleet = Fleet(machine)
    worker = Worker(
        settings=settings,
        poller=poller,
        fleet=fleet,
        dialler=Dialler(fleet, poller, settings.allow_targets, settings.dial_timeout),
        auth=Authenticator(),
        metrics=Metrics(),
    )
    worker.empty.set()
    worker.metrics.snapshot_age.set_function(lambda: fleet.age)
    registry = Registry.open(redis)
    follower = asyncio.create_task(fleet.follow(registry), name="snapshot")
    listeners: list[Listener] = []
    runner = web.AppRunner(metrics_app(worker.metrics, lambda: fleet.ready and not stop.is_set()), access_log=None)
    try:
        listeners += [Listener(worker, address) for address in settings.listen]
        await runner.setup()
        await web.SockSite(runner, listening_socket(settings.metrics_listen)).start()
        log.info("gateway listening", listen=list(settings.listen), metrics=settings.metrics_listen)
        await stop.wait()
        log.info("gateway draining", sessions=len(worker.sessions))
        for listener in listeners:
            listener.close()
        await _drain(worker)
    finally:
        for listener in listeners:
            listener.close()
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower
        await runner.cleanup()
        await fleet.close()
        await registry.close()
        worker.auth.close()
        poller.close()


async def _drain(worker: Worker) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(worker.settings.drain_timeout):
            await worker.empty.wait()
    for session in list(worker.sessions):
        session.abort()
    await asyncio.sleep(0)

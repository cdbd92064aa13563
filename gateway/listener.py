"""Accepting clients, as many at once as the descriptors of a worker allow (`resources`).

At the limit a worker stops accepting and leaves its clients in the kernel's queue, where another worker can take them;
it looks again some milliseconds later. It never spins and never runs into EMFILE by itself. Knows nothing of what is
done with a client.
"""

import asyncio
import errno
import socket
import time
from ipaddress import ip_address
from typing import Any

import structlog

from gateway.front import welcome
from gateway.wire.base import Address
from gateway.worker import Worker

log = structlog.get_logger()

# A worker that has many clients waiting leaves some to the others, and lets those it has go on.
ACCEPTS_PER_TURN = 16
LIMIT_PAUSE_S = 0.01
ERROR_PAUSE_S = 0.1
_SAID_EVERY_S = 10.0
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Accepts on one listening socket while `worker` has fewer than `most` clients open."""

    def __init__(self, sock: socket.socket, worker: Worker, most: int) -> None:
        self._sock = sock
        self._worker = worker
        self._metrics = worker.metrics
        self._most = most
        here = sock.getsockname()
        # None where it listens on all addresses: then each client must be asked which one it dialled.
        self._here = _endpoint(here) if not ip_address(here[0]).is_unspecified else None
        self._loop = asyncio.get_running_loop()
        self._paused: asyncio.TimerHandle | None = None
        self._said = 0.0
        self._watch()

    def close(self) -> None:
        """Stop accepting and close the socket; who waits in its queue stays there while others have it open."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def favour(self) -> None:
        """Let this worker be the first to hear of a client, until another does the same.

        The kernel tells those that wait in an order of its own, always the same. While there is little to do the first
        would get most of the clients, and keep them when there is much.
        """
        if self._paused is None:
            self._loop.remove_reader(self._sock.fileno())
            self._watch()

    def _watch(self) -> None:
        # Level-triggered, by the loop itself. EPOLLEXCLUSIVE would gain nothing: it counts only in an epoll that
        # somebody waits on directly, and uvloop's cannot be given it.
        self._paused = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        # A UDP association has as many descriptors as two connections.
        room = min(self._most, self._worker.places - self._metrics.udp_associations) - self._metrics.open
        if room <= 0:
            self._pause("limit", LIMIT_PAUSE_S)
            return
        for _ in range(min(room, ACCEPTS_PER_TURN)):
            try:
                # The plain class and one system call less than accept(): the family is that of the listener.
                descriptor, peer = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._pause("descriptors", ERROR_PAUSE_S)
                    return
                continue  # accept(2): what went wrong with this one client
            sock = socket.SocketType(self._sock.family, socket.SOCK_STREAM, 0, descriptor)
            sock.setblocking(False)
            welcome(self._worker, sock, peer[0], self._here or _endpoint(sock.getsockname()))

    def _pause(self, reason: str, seconds: float) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._paused = self._loop.call_later(seconds, self._watch)
        self._metrics.paused(reason)
        now = time.monotonic()
        if now - self._said > _SAID_EVERY_S:
            self._said = now
            log.warning("accept paused", reason=reason, open_connections=self._metrics.open, most=self._most)


def _endpoint(name: Any) -> tuple[Address, int]:
    return ip_address(name[0].partition("%")[0]), name[1]

"""TCP connections that are opened to see how long that takes, and reset: four small packets each.

A refusal counts as well as an acceptance: somebody answered, so bytes pass both ways.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

_RESET = struct.pack("ii", 1, 0)


class Connects:
    """Connections under way. `done(number, target, reached)` is told of each that ends within `timeout` seconds."""

    def __init__(self, done: Callable[[int, str, bool], None], timeout: float) -> None:
        self._done = done
        self._timeout = timeout
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}

    def dial(self, number: int, target: str) -> None:
        """Connect to `target` (an IPv4 address and a port) for round `number`."""
        address, _, port = target.rpartition(":")
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            self._tell(number, target, reached=False)
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        failed = sock.connect_ex((address, int(port)))
        if failed != errno.EINPROGRESS:
            sock.close()
            self._tell(number, target, reached=_reached(failed))
            return
        loop = asyncio.get_running_loop()
        loop.add_writer(sock, self._settled, sock, number, target)
        self._timers[sock] = loop.call_later(self._timeout, self._drop, sock)

    def close(self) -> None:
        """Give up on all of them; `done` is told of none."""
        for sock in list(self._timers):
            self._drop(sock)

    def _tell(self, number: int, target: str, *, reached: bool) -> None:
        # Later, so that who dials is not called back in the middle of dialling.
        asyncio.get_running_loop().call_soon(self._done, number, target, reached)

    def _settled(self, sock: socket.socket, number: int, target: str) -> None:
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._drop(sock)
        self._done(number, target, _reached(failed))

    def _drop(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().remove_writer(sock)
        self._timers.pop(sock).cancel()
        sock.close()


def _reached(failed: int) -> bool:
    return failed in (0, errno.ECONNREFUSED)

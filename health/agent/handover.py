"""Sockets made in this network namespace, for the gateway to dial with."""

import array
import contextlib
import socket
from collections.abc import Iterator

from health.agent.protocol import FAMILIES, MAX_SOCKETS, TYPES

_FAMILY = dict(zip(FAMILIES, (socket.AF_INET, socket.AF_INET6), strict=True))
_TYPE = dict(zip(TYPES, (socket.SOCK_STREAM, socket.SOCK_DGRAM), strict=True))


class RefusedError(ValueError):
    """A request for sockets that is not met; the text says why."""


@contextlib.contextmanager
def made(family: object, kind: object, count: object) -> Iterator[list[int]]:
    """`count` (1-200) unconnected sockets, closed again on leaving: what was sent lives on with its receiver.

    Raises RefusedError for what cannot be asked for, and when descriptors run out.
    """
    if family not in FAMILIES or kind not in TYPES:
        raise RefusedError("unknown family or type of socket")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_SOCKETS:
        raise RefusedError(f"1 to {MAX_SOCKETS} sockets at a time")
    sockets: list[socket.SocketType] = []  # the plain class: it is made and closed for every connection
    try:
        try:
            domain, flags = _FAMILY[str(family)], _TYPE[str(kind)] | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            for _ in range(count):
                sockets.append(socket.SocketType(domain, flags))
        except OSError as error:
            raise RefusedError(f"no sockets: {error.strerror}") from None
        yield [sock.fileno() for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def rights(descriptors: list[int]) -> list[tuple[int, int, bytes]]:
    """The ancillary data that carries `descriptors`."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]

"""Descriptors that arrive beside a message, and which sockets among them may be used.

A socket of our own network namespace would leave from this machine: it is refused, whoever sent it.
"""

import array
import os
import socket
from socket import SocketType

SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14


class HandoverError(Exception):
    """What was handed over is not what was asked for."""


def received(control: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in a message's control data. They are the caller's to close."""
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def close_all(fds: list[int]) -> None:
    """Close them, whatever they are."""
    for fd in fds:
        os.close(fd)


def adopt(fds: list[int], family: int, kind: int) -> list[SocketType]:
    """Make non-blocking sockets of `fds`, all of one family and kind, all of another network namespace.

    Raises HandoverError, and closes all of them then.
    """
    rest, made = list(fds), list[SocketType]()
    try:
        own = own_netns_cookie()
        while rest:
            # With family and type given, and by the plain class, it costs a third of socket.socket(fileno=...).
            made.append(SocketType(family, kind, 0, rest[0]))
            del rest[0]
            _check(made[-1], own, family, kind)
            made[-1].setblocking(False)
    except (HandoverError, OSError) as error:
        close_all(rest)
        for sock in made:
            sock.close()
        raise HandoverError(str(error)) from None
    return made


def own_netns_cookie() -> int:
    """The cookie of this process's network namespace. Raises OSError on a kernel older than 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return _netns_cookie(probe)


def _check(sock: SocketType, own: int, family: int, kind: int) -> None:
    of = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN), sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    if of != (family, kind):
        raise HandoverError("agent handed over a socket of another kind")
    if _netns_cookie(sock) == own:
        raise HandoverError("agent handed over a socket of this machine's own network namespace")


def _netns_cookie(sock: SocketType) -> int:
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")

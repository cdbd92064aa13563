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
            # The plain class asks the kernel for family and type; socket.socket(fileno=...) would take twice as long.
            sock = SocketType(-1, -1, 0, rest[0])
            made.append(sock)
            del rest[0]
            if sock.family != family or sock.type != kind:
                raise HandoverError("agent handed over a socket of another kind")
            if sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8) == own:
                raise HandoverError("agent handed over a socket of this machine's own network namespace")
            sock.setblocking(False)
    except (HandoverError, OSError) as error:
        close_all(rest)
        for sock in made:
            sock.close()
        raise HandoverError(str(error)) from None
    return made


def own_netns_cookie() -> bytes:
    """The cookie of this process's network namespace. Raises OSError on a kernel older than 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)

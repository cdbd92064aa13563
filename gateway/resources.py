"""What the system gives a gateway's processes: listening sockets, and descriptors.

Light, and without a word of clients: the supervisor needs it too.
"""

import errno
import resource
import socket
from dataclasses import dataclass

BACKLOG = 4096
RESERVE = 128  # listeners, Redis, logs, name servers
MOST_DESCRIPTORS = 1_048_576
# A peer that went away without a word is noticed after 60 + 4 * 15 s.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


def listening_socket(address: str) -> socket.socket:
    """A non-blocking listening socket on `host:port`. Raises OSError, with the address in its text.

    On Linux an accepted socket has the TCP options of the one it was accepted from: nothing is set per connection.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, int(port)))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    return sock


def keep_alive(sock: socket.SocketType) -> None:
    """Notice it when the peer of a TCP connection vanished. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def raise_descriptor_limit() -> int:
    """Raise this process's limit to what it may have, at most 1,048,576; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else MOST_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


@dataclass(frozen=True, slots=True)
class Budget:
    """What a process with `descriptors` of them may use. A connection needs two: client and target.

    `pipes` is the most pipes the relay may have, `stock` the most sockets that are kept ready for dialling.
    """

    descriptors: int
    pipes: int

    @property
    def stock(self) -> int:
        return self.descriptors // 20

    @property
    def connections(self) -> int:
        """Clients at once. Raises OSError where not even one is possible."""
        count = (self.descriptors - RESERVE - self.stock - 2 * self.pipes) // 2
        if count < 1:
            raise OSError(
                errno.EMFILE,
                f"a limit of {self.descriptors} open files is too low to serve anybody: raise it (ulimit -n)",
            )
        return count

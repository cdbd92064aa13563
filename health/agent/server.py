"""The agent's listening socket and its peers: datagrams in, datagrams out, bounded in everything.

Who may connect is decided by the 0750 directory the socket lies in. A peer that does not read is dropped, never waited
for; a datagram that is not ours ends its connection.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Callable
from typing import Any

from health.agent import protocol
from health.agent.handover import rights

MAX_PEERS = 64
_REQUEST_LIMIT = 4096
_BATCH = 32
_ACCEPT_PAUSE = 1.0


class Peer:
    """One connection. `pending` counts its look-ups under way."""

    def __init__(self, server: "Server", sock: socket.socket) -> None:
        self.pending = 0
        self._server = server
        self._socket: socket.socket | None = sock
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Send one message, with descriptors beside it. A peer that does not take it is dropped."""
        if self._socket is None:
            return
        data = protocol.encode(message)
        try:
            self._socket.sendmsg([data], rights(descriptors or []), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                # Too many handed-over sockets lie unread in queues: not this peer's fault.
                self.send({"id": message.get("id"), "error": "too many sockets under way"})
                return
            self.close()

    @property
    def unread(self) -> int:
        """How much memory (bytes) what we sent takes that the peer has not read."""
        if self._socket is None:
            return 0
        return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def close(self) -> None:
        """End the connection. Idempotent."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()
        self._server.forget(self)

    def _readable(self) -> None:
        for _ in range(_BATCH):
            if self._socket is None:
                return
            try:
                # No room for ancillary data: descriptors that a peer sends are dropped by the kernel.
                data, _, flags, _ = self._socket.recvmsg(_REQUEST_LIMIT, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            if not data or flags & socket.MSG_TRUNC:
                self.close()
                return
            try:
                message = protocol.decode(data)
            except protocol.ProtocolError:
                self.close()
                return
            self._server.handle(self, message)


class Server:
    """Accepts peers and hands their messages to `handle(peer, message)`."""

    def __init__(self, handle: Callable[[Peer, dict[str, Any]], None], max_peers: int = MAX_PEERS) -> None:
        self.handle = handle
        self._max_peers = max_peers
        self._peers: set[Peer] = set()
        self._listener: socket.socket | None = None

    @property
    def peers(self) -> int:
        return len(self._peers)

    def listen(self, path: str) -> None:
        """Listen at `path`, in place of what an earlier agent left there. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        mask = os.umask(0o117)
        try:
            listener.bind(path)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(mask)
        listener.listen(self._max_peers)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def broadcast(self, message: dict[str, Any]) -> None:
        """Send `message` to every peer."""
        for peer in list(self._peers):
            peer.send(message)

    def close(self) -> None:
        """Stop listening and drop every peer."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for peer in list(self._peers):
            peer.close()

    def forget(self, peer: Peer) -> None:
        """Called by a peer that ended."""
        self._peers.discard(peer)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # Out of descriptors: a listener that stays ready would only keep the loop spinning.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            loop.call_later(_ACCEPT_PAUSE, self._resume)
            return
        if len(self._peers) >= self._max_peers:
            sock.close()
            return
        sock.setblocking(False)
        self._peers.add(Peer(self, sock))

    def _resume(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

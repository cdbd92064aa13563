"""A connection to a target, made and not yet a tunnel."""

import socket
import time

from gateway.channel import Channel
from gateway.links import Link
from gateway.poller import READ, Poller
from health.model import Node


class Dialled:
    """The socket, and the node it leaves by. Counts among the link's tunnels until released.

    `seconds` is how long it took, `since` when it was done (0 once the target has answered), `moved` the node that the
    client's session had to leave for this one, `events` those of the socket that nobody has read for yet.
    """

    __slots__ = ("_channel", "_poller", "events", "link", "moved", "node", "seconds", "since", "sock")

    def __init__(
        self,
        poller: Poller,
        node: Node,
        link: Link,
        sock: socket.SocketType,
        seconds: float,
        events: int = READ,
        moved: str = "",
    ) -> None:
        self._poller = poller
        self._channel: Channel | None = None
        self.node = node
        self.link = link
        self.sock = sock
        self.seconds = seconds
        self.since = time.monotonic()
        self.events = events
        self.moved = moved

    @property
    def channel(self) -> Channel:
        """The socket as something that can be awaited."""
        if self._channel is None:
            self._channel = Channel(self._poller, self.sock)
            self.events = READ  # which ones it takes without reading for them is not known
        return self._channel

    @property
    def closed(self) -> bool:
        """True once it was released, aborted or its node went away."""
        return self.sock.fileno() < 0

    def release(self) -> None:
        """Close it and take it off the link. Idempotent."""
        self.link.tunnels.discard(self)
        self.channel.close()

    def abort(self) -> None:
        """Reset it. Idempotent."""
        self.link.tunnels.discard(self)
        self.channel.abort()

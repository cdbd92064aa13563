"""Which targets are this machine itself: what leaves by a `direct` node must not come back to our own listeners.

An exit container has a network of its own, where such an address is somebody else's or nobody's.
"""

import socket
from collections.abc import Sequence
from ipaddress import ip_address

from gateway.config import Network
from gateway.wire.base import WireError
from health.reasons import Reason


class Ourselves:
    """`listen` as in the settings: host:port; `allow` are the networks that the operator opened."""

    def __init__(self, listen: Sequence[str] = (), allow: Sequence[Network] = ()) -> None:
        self._ports = {int(address.rpartition(":")[2]) for address in listen}
        self._allow = tuple(allow)

    def verdict(self, address: str, port: int) -> WireError | None:
        """Why `address` must not be dialled from here; None where it may be."""
        if not _is_local(address):
            return None
        if port in self._ports:
            return WireError(Reason.TARGET_FORBIDDEN, "the target is this gateway itself")
        if any(ip_address(address) in network for network in self._allow):
            return None
        return WireError(Reason.TARGET_FORBIDDEN, "the target is this machine itself")


def _is_local(address: str) -> bool:
    """Only an address of this machine can be bound (ip(7))."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True

"""SOCKS5 (RFC 1928) with user name and password (RFC 1929), the client's side: how an upstream is asked for a target,
or for a relay of datagrams.

The shell sends `opening`, then hands over what arrives, but never more than `belongs` says: the bytes after the reply
are the tunnel's and stay where they are.
"""

from ipaddress import IPv4Address, IPv6Address

from gateway.wire.base import Target, WireError
from gateway.wire.socks import Command
from health.reasons import Reason

_VERSION, _AUTH_VERSION = 5, 1
_NO_AUTH, _USER_PASSWORD, _NO_METHOD = 0x00, 0x02, 0xFF
_ATYP_IPV4, _ATYP_NAME, _ATYP_IPV6 = 1, 3, 4
_SHORTEST_REPLY = 5  # up to the first byte of the address, which is a name's length
_MAX_LOGIN = 255
_COMMAND_UNKNOWN = 0x07

# RFC 1928 section 6. What the upstream says of the target is the target's; anything else is the upstream's own fault.
REPLIES = {
    0x01: (Reason.NODE_DIAL, "general failure"),
    0x02: (Reason.TARGET_FORBIDDEN, "it does not allow this target"),
    0x03: (Reason.NETWORK_UNREACHABLE, "network unreachable"),
    0x04: (Reason.HOST_UNREACHABLE, "host unreachable"),
    0x05: (Reason.REFUSED, "connection refused"),
    0x06: (Reason.TARGET_TIMEOUT, "TTL expired"),
    0x07: (Reason.NODE_DIAL, "it does not know this command"),
    0x08: (Reason.NODE_DIAL, "it does not know this type of address"),
}


class Socks5Client:
    """One CONNECT to `target`. `login` is user and password, 1 to 255 bytes each, or None.

    With a login nothing but user and password is offered: an upstream that asks nobody would not learn the user, who
    may carry a want.
    """

    _command = Command.CONNECT

    def __init__(self, target: Target, login: tuple[bytes, bytes] | None) -> None:
        self._target = target
        self._login = login
        self._method = _NO_AUTH if login is None else _USER_PASSWORD
        self._buffer = b""
        self._state = self._chosen
        self.asked = False
        """True once the target was named: from then on the upstream may be waiting for the target."""
        self.connected = False
        self._reply = b""

    @property
    def opening(self) -> bytes:
        """What to send first."""
        return bytes((_VERSION, 1, self._method))

    def belongs(self, waiting: bytes) -> int:
        """How many of the bytes that arrived belong to the handshake; at least 1 while not `connected`."""
        return min(len(waiting), self._length(self._buffer + waiting) - len(self._buffer))

    def receive(self, data: bytes) -> bytes:
        """Take bytes that belong; returns what to send next, perhaps nothing.

        Raises:
            WireError: the upstream refused, or answers nonsense. The reason says whose fault it is.
        """
        self._buffer += data
        if self._state == self._replied:
            self._check_reply()
        if len(self._buffer) < self._length(self._buffer):
            return b""
        message, self._buffer = self._buffer, b""
        return self._state(message)

    def _length(self, message: bytes) -> int:
        """Length in bytes of the message that begins so, as far as it is known."""
        if self._state != self._replied:
            return 2
        if len(message) < _SHORTEST_REPLY:
            return _SHORTEST_REPLY
        return {_ATYP_IPV4: 10, _ATYP_NAME: 7 + message[4], _ATYP_IPV6: 22}.get(message[3], _SHORTEST_REPLY)

    def _chosen(self, message: bytes) -> bytes:
        if message[0] != _VERSION:
            raise _nonsense()
        if message[1] == _NO_METHOD:
            raise WireError(Reason.NODE_DIAL, "the upstream asks for another kind of log-in")
        if message[1] != self._method:
            raise _nonsense()
        if self._login is None:
            return self._ask()
        self._state = self._judged
        user, password = self._login
        return bytes((_AUTH_VERSION, len(user))) + user + bytes((len(password),)) + password

    def _judged(self, message: bytes) -> bytes:
        # The version is not looked at: there are servers that say 5 here.
        if message[1] != 0:
            raise WireError(Reason.NODE_DIAL, "the upstream refused the log-in")
        return self._ask()

    def _ask(self) -> bytes:
        self._state = self._replied
        self.asked = True
        return bytes((_VERSION, self._command, 0)) + _address(self._target) + self._target.port.to_bytes(2)

    def _check_reply(self) -> None:
        # Before it is complete: some close right after these bytes.
        if self._buffer[0] != _VERSION:
            raise _nonsense()
        if len(self._buffer) > 1 and self._buffer[1] != 0:
            raise self._refusal(self._buffer[1])

    def _refusal(self, code: int) -> WireError:
        reason, text = REPLIES.get(code, (Reason.NODE_DIAL, f"reply {code}"))
        return WireError(reason, f"the upstream says: {text}")

    def _replied(self, message: bytes) -> bytes:
        if message[3] not in (_ATYP_IPV4, _ATYP_NAME, _ATYP_IPV6):
            raise _nonsense()
        self.connected = True
        self._reply = message
        return b""


class Socks5Associate(Socks5Client):
    """One UDP ASSOCIATE: where to send datagrams is in `bound`. Whatever goes wrong is the upstream's fault.

    Nothing is said of where the datagrams will come from (RFC 1928 section 4): behind a NAT it would be wrong.
    """

    _command = Command.UDP_ASSOCIATE

    def __init__(self, login: tuple[bytes, bytes] | None) -> None:
        super().__init__(Target("0.0.0.0", 0, IPv4Address(0)), login)  # noqa: S104 - see above

    @property
    def bound(self) -> Target:
        """Where the upstream says that datagrams go: an address, or a name as it came; the port may be 0."""
        kind, host, port = self._reply[3], self._reply[4:-2], int.from_bytes(self._reply[-2:])
        if kind == _ATYP_NAME:
            return Target(host[1:].decode("latin-1"), port)
        address = IPv4Address(host) if kind == _ATYP_IPV4 else IPv6Address(host)
        return Target(str(address), port, address)

    def _refusal(self, code: int) -> WireError:
        text = "no UDP" if code == _COMMAND_UNKNOWN else REPLIES.get(code, (Reason.NODE_DIAL, f"reply {code}"))[1]
        return WireError(Reason.NODE_DIAL, f"the upstream says to UDP ASSOCIATE: {text}")


def _address(target: Target) -> bytes:
    if target.address is None:
        name = target.host.encode("ascii")
        return bytes((_ATYP_NAME, len(name))) + name
    return bytes((_ATYP_IPV4 if target.address.version == 4 else _ATYP_IPV6,)) + target.address.packed


def _nonsense() -> WireError:
    return WireError(Reason.NODE_DIAL, "the upstream does not speak SOCKS5")

"""SOCKS4 and 4a, the server's side, CONNECT only (the memos "SOCKS: A protocol for TCP proxy across firewall" by
Ying-Da Lee, and "SOCKS 4A: A Simple Extension to SOCKS 4 Protocol").

The shell feeds bytes with `receive` and asks `next_event` until it gets a `Request`; what follows the request is in
`leftover`. The protocol has no password, so where one is required nothing is read at all. Every refusal is 91: 92 and
93 speak of identd, which nobody here asks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from gateway.wire.base import MAX_HOST_TEXT, Target, WireError, decode_text, parse_host
from gateway.wire.socks import NeedData
from health.reasons import Reason

VERSION = 4
GRANTED = b"\x00\x5a" + bytes(6)  # port and address mean something after BIND only
REFUSED = b"\x00\x5b" + bytes(6)
MAX_USER_ID = 512  # bytes: what a SOCKS5 user name and a want could fill, twice

_CONNECT = 1
_HEAD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Request:
    """Connect to `target`; `user_id` carries the want and may be empty. Answer with GRANTED or REFUSED."""

    user_id: str
    target: Target


Event = NeedData | Request


class Socks4Handshake:
    """The state machine of one handshake. Holds at most 776 bytes of it, besides what was fed in one piece.

    Args:
        auth_required: refuse every client.
    """

    def __init__(self, auth_required: bool) -> None:
        self._auth_required = auth_required
        self._buffer = bytearray()
        self._state: Callable[[], Event] = self._request

    def receive(self, data: bytes | bytearray) -> None:
        """Take the next bytes from the client."""
        self._buffer += data

    def next_event(self) -> Event:
        """What to do next.

        Raises:
            WireError: the client is refused; send its `reply` and close.
            RuntimeError: asked after the end.
        """
        try:
            return self._state()
        except WireError:
            self._state = self._closed
            raise

    @property
    def leftover(self) -> bytes:
        """What the client sent after its request: the first bytes for the target."""
        return bytes(self._buffer)

    def _request(self) -> Event:
        if self._auth_required:
            raise _refuse(Reason.AUTH_REQUIRED, "SOCKS4 has no password: use SOCKS5 or HTTP")
        buffer = self._buffer
        _check_head(bytes(buffer[:4]))
        if len(buffer) < _HEAD_BYTES:
            return NeedData()
        user_end = self._text_end(_HEAD_BYTES, MAX_USER_ID, "user id")
        if user_end is None:
            return NeedData()
        address, end = bytes(buffer[4:8]), user_end
        if _names_a_host(address):
            name_end = self._text_end(user_end, MAX_HOST_TEXT, "host name")
            if name_end is None:
                return NeedData()
            end = name_end
        user_id, name = bytes(buffer[_HEAD_BYTES : user_end - 1]), bytes(buffer[user_end : end - 1])
        port = int.from_bytes(buffer[2:4])
        del buffer[:end]
        self._state = self._closed
        return Request(decode_text(user_id), _target(address, name, port))

    def _text_end(self, start: int, most: int, what: str) -> int | None:
        """The index after the NUL that ends the text at `start`, None where it has not come yet."""
        at = self._buffer.find(0, start, start + most + 1)
        if at >= 0:
            return at + 1
        if len(self._buffer) > start + most:
            raise _refuse(Reason.TOO_LARGE, f"the {what} is longer than {most} bytes")
        return None

    def _closed(self) -> Event:
        raise RuntimeError("the handshake is over")


def _refuse(reason: Reason, detail: str) -> WireError:
    return WireError(reason, detail, reply=REFUSED)


def _check_head(head: bytes) -> None:
    if head and head[0] != VERSION:
        raise WireError(Reason.BAD_REQUEST, "the request is not SOCKS4")
    if len(head) > 1 and head[1] != _CONNECT:
        raise _refuse(Reason.COMMAND_UNSUPPORTED, f"SOCKS4 command {head[1]}: only CONNECT (1) is supported")
    if len(head) > 3 and not any(head[2:4]):
        raise _refuse(Reason.BAD_REQUEST, "the port is no number from 1 to 65535")


def _names_a_host(address: bytes) -> bool:
    """SOCKS 4a: 0.0.0.x with x not 0 says that a name follows the user id."""
    return address[:3] == bytes(3) and address[3] != 0


def _target(address: bytes, name: bytes, port: int) -> Target:
    if not _names_a_host(address):
        literal = IPv4Address(address)
        return Target(str(literal), port, literal)
    try:
        host, found = parse_host(name.decode("latin-1"))
    except WireError as error:
        raise _refuse(error.reason, error.detail) from None
    return Target(host, port, found)

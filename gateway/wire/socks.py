"""SOCKS5 (RFC 1928) with user name and password (RFC 1929), the server's side: CONNECT and UDP ASSOCIATE.

The shell feeds bytes with `receive` and asks `next_event` until it gets a `Request`; what follows the request is in
`leftover`. User name and password are chosen whenever they are offered, also where they are not required: the user
name carries the want.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from gateway.wire.base import Address, Target, WireError, decode_text, parse_host
from health.reasons import WIRE, Reason

VERSION = 5
AUTH_VERSION = 1
NO_AUTH, USER_PASSWORD, NO_METHOD = 0x00, 0x02, 0xFF
NO_METHOD_WILL_DO = bytes((VERSION, NO_METHOD))  # RFC 1928 section 3
LOGIN_REFUSED = bytes((AUTH_VERSION, 1))  # RFC 1929 section 2

ATYP_IPV4, ATYP_NAME, ATYP_IPV6 = 1, 3, 4  # RFC 1928 section 5
ADDRESS_BYTES = {ATYP_IPV4: 4, ATYP_IPV6: 16}


class Command(IntEnum):
    """RFC 1928 section 4. BIND (2) is refused: an exit takes no connections."""

    CONNECT = 1
    UDP_ASSOCIATE = 3


_COMMANDS = frozenset(Command)


@dataclass(frozen=True, slots=True)
class NeedData:
    """Nothing to do until more bytes arrive."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send `data` to the client, then go on."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """Check these, send what `auth_result` returns, then go on (or close). Either may be empty."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(...)"


@dataclass(frozen=True, slots=True)
class Request:
    """What the client asks for; answer with `reply` once it is known.

    For UDP ASSOCIATE `target` is where the client says its datagrams will come from; its port may be 0 then, which
    like the address 0.0.0.0 means that it does not know yet (RFC 1928 section 4).
    """

    command: Command
    target: Target


Event = NeedData | Send | Credentials | Request

_NEED_DATA = NeedData()
_ASK_LOGIN = Send(bytes((VERSION, USER_PASSWORD)))
_ASK_NOTHING = Send(bytes((VERSION, NO_AUTH)))
_LOGIN_RIGHT = bytes((AUTH_VERSION, 0))
REQUESTS_KEPT = 4096


def reply(code: int, bound: Address | None = None, port: int = 0) -> bytes:
    """A reply (RFC 1928 section 6): `code` 0–8, the address and port bound, 0.0.0.0:0 where unknown."""
    return bytes((VERSION, code, 0)) + encode_address(bound if bound is not None else IPv4Address(0), port)


def encode_address(address: Address, port: int) -> bytes:
    """Address type, address and port as RFC 1928 writes them (sections 4 to 7)."""
    return bytes((ATYP_IPV4 if address.version == 4 else ATYP_IPV6,)) + address.packed + port.to_bytes(2)


def decode_target(atyp: int, host: bytes, port: int) -> Target:
    """The target that a known address type, its address (a name without its length) and a port mean.

    Raises WireError when the name is none. The port is the caller's to check.
    """
    if atyp != ATYP_NAME:
        address: Address = IPv4Address(host) if atyp == ATYP_IPV4 else IPv6Address(host)
        return Target(str(address), port, address)
    name, literal = parse_host(host.decode("latin-1"))
    return Target(name, port, literal)


def bound_reply(packed: bytes, port: int) -> bytes:
    """Success, with the address bound (4 or 16 bytes in network order) and its port."""
    return bytes((VERSION, 0, 0, ATYP_IPV4 if len(packed) == 4 else ATYP_IPV6)) + packed + port.to_bytes(2)


def error_reply(reason: Reason) -> bytes:
    """The one reply to a request that ended with `reason`."""
    return reply(WIRE[reason].socks5)


class Socks5Handshake:
    """The state machine of one handshake. Holds at most 512 bytes of it, besides what was fed in one piece.

    Args:
        auth_required: refuse a client that does not offer user name and password.
    """

    def __init__(self, auth_required: bool) -> None:
        self._auth_required = auth_required
        self._buffer = b""
        self._denied: WireError | None = None
        self._state: Callable[[], Event] = self._greeting

    def receive(self, data: bytes | bytearray) -> None:
        """Take the next bytes from the client."""
        self._buffer += data

    def next_event(self) -> Event:
        """What to do next.

        Raises:
            WireError: the client broke the protocol; send its `reply` (if any) and close.
            RuntimeError: asked after the end, or before `auth_result`.
        """
        try:
            return self._state()
        except WireError:
            self._state = self._closed
            raise

    def auth_result(self, ok: bool, denied: WireError | None = None) -> bytes:
        """The answer to the credentials (RFC 1929 section 2). After a refusal the connection must be closed.

        `denied`: they are right, but any request will raise this: RFC 1929 has no word for why, the reply to it has.
        """
        if self._state != self._waiting:
            raise RuntimeError("no credentials are waiting for an answer")
        self._denied = denied
        self._state = self._request if ok else self._closed
        return _LOGIN_RIGHT if ok else LOGIN_REFUSED

    @property
    def leftover(self) -> bytes:
        """What the client sent after its request: the first bytes for the target."""
        return self._buffer

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _greeting(self) -> Event:
        buffer = self._buffer
        if buffer and buffer[0] != VERSION:
            raise WireError(Reason.BAD_REQUEST, "the greeting is not SOCKS5", silent=True)
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return _NEED_DATA
        methods = self._take(2 + buffer[1])[2:]
        if USER_PASSWORD in methods:
            self._state = self._credentials
            return _ASK_LOGIN
        if NO_AUTH in methods and not self._auth_required:
            self._state = self._request
            return _ASK_NOTHING
        raise WireError(
            Reason.AUTH_REQUIRED if self._auth_required else Reason.BAD_REQUEST,
            "the client offered no acceptable SOCKS5 method: offer user name and password",
            reply=NO_METHOD_WILL_DO,
        )

    def _credentials(self) -> Event:
        buffer = self._buffer
        if buffer and buffer[0] != AUTH_VERSION:
            raise WireError(
                Reason.BAD_REQUEST, "user name and password were expected, something else came", silent=True
            )
        if len(buffer) < 2:
            return _NEED_DATA
        user_end = 2 + buffer[1]
        if len(buffer) <= user_end or len(buffer) < user_end + 1 + buffer[user_end]:
            return _NEED_DATA
        taken = self._take(user_end + 1 + buffer[user_end])
        self._state = self._waiting
        return Credentials(decode_text(taken[2:user_end]), decode_text(taken[user_end + 1 :]))

    def _request(self) -> Event:
        buffer = self._buffer
        self._check_request_head(buffer[:4])
        if len(buffer) < 5:
            return _NEED_DATA
        atyp = buffer[3]
        start = 5 if atyp == ATYP_NAME else 4
        end = start + (buffer[4] if atyp == ATYP_NAME else ADDRESS_BYTES[atyp])
        if atyp == ATYP_NAME and not buffer[4]:
            raise _refuse(Reason.BAD_REQUEST, "the target host is empty")
        if len(buffer) < end + 2:
            return _NEED_DATA
        self._state = self._closed
        if self._denied is not None:
            raise self._denied
        return _parse_request(self._take(end + 2), start)

    def _check_request_head(self, head: bytes) -> None:
        if head and head[0] != VERSION:
            raise WireError(Reason.BAD_REQUEST, "the request is not SOCKS5", silent=True)
        if len(head) > 1 and head[1] not in _COMMANDS:
            raise _refuse(Reason.COMMAND_UNSUPPORTED, f"SOCKS5 command {head[1]}: use CONNECT (1) or UDP ASSOCIATE (3)")
        if len(head) > 2 and head[2] != 0:
            raise _refuse(Reason.BAD_REQUEST, "the reserved byte of the request is not 0")
        if len(head) > 3 and head[3] not in (ATYP_IPV4, ATYP_NAME, ATYP_IPV6):
            raise _refuse(Reason.ADDRESS_UNSUPPORTED, f"SOCKS5 address type {head[3]}: use 1, 3 or 4")

    def _waiting(self) -> Event:
        raise RuntimeError("auth_result() must be called first")

    def _closed(self) -> Event:
        raise RuntimeError("the handshake is over")


def _refuse(reason: Reason, detail: str) -> WireError:
    return WireError(reason, detail, reply=error_reply(reason))


@lru_cache(REQUESTS_KEPT)
def _parse_request(data: bytes, start: int) -> Request:
    """A complete request whose head is right and whose host begins at `start`. Clients ask for the same again."""
    command, atyp, host, port = Command(data[1]), data[3], data[start:-2], int.from_bytes(data[-2:])
    if not port and command is Command.CONNECT:
        raise _refuse(Reason.BAD_REQUEST, "the port is no number from 1 to 65535")
    if command is Command.UDP_ASSOCIATE and atyp == ATYP_NAME:
        atyp, host = ATYP_IPV4, bytes(4)  # a hint, and a name says nothing (PySocks sends "0")
    try:
        return Request(command, decode_target(atyp, host, port))
    except WireError as error:
        raise _refuse(error.reason, error.detail) from None

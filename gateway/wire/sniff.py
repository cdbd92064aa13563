"""Which protocol a client speaks, from its first bytes. Decides nothing else."""

from enum import StrEnum

PROXY_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXY_V1_PREFIX = b"PROXY "
_TOKEN_START = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Kind(StrEnum):
    """The protocols a listener can meet."""

    HTTP = "http"
    SOCKS4 = "socks4"
    SOCKS5 = "socks5"
    PROXY_V1 = "proxy_v1"
    PROXY_V2 = "proxy_v2"
    TLS = "tls"
    UNKNOWN = "unknown"


_BY_VERSION = {4: Kind.SOCKS4, 5: Kind.SOCKS5}


def sniff(data: bytes | bytearray) -> Kind | None:
    """Name the protocol that `data`, the first bytes of a connection, begins. None: more bytes are needed (at most 12).

    A PROXY header is only named here; whether the peer may send one is the caller's to decide.
    """
    if not data:
        return None
    first = data[0]
    if first in _BY_VERSION:
        return _BY_VERSION[first]
    if first == 0x16:
        return _sniff_tls(data)
    if first == 0x0D:
        return _sniff_line_end(data)
    if first in _TOKEN_START:
        return _sniff_word(data)
    return Kind.UNKNOWN


def _sniff_tls(data: bytes | bytearray) -> Kind | None:
    # RFC 8446 section 5.1: content type handshake (22), legacy version 3.x
    if len(data) < 2:
        return None
    return Kind.TLS if data[1] == 3 else Kind.UNKNOWN


def _sniff_line_end(data: bytes | bytearray) -> Kind | None:
    """A PROXY v2 signature, or the one empty line that may precede a request (RFC 9112 section 2.2)."""
    head = bytes(data[: len(PROXY_V2_SIGNATURE)])
    if head == PROXY_V2_SIGNATURE:
        return Kind.PROXY_V2
    if PROXY_V2_SIGNATURE.startswith(head):
        return None
    return Kind.HTTP if head[1] == 0x0A and head[2] in _TOKEN_START else Kind.UNKNOWN


def _sniff_word(data: bytes | bytearray) -> Kind | None:
    head = bytes(data[: len(_PROXY_V1_PREFIX)])
    if head == _PROXY_V1_PREFIX:
        return Kind.PROXY_V1
    return None if _PROXY_V1_PREFIX.startswith(head) else Kind.HTTP

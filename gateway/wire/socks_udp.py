"""The header of a SOCKS5 UDP datagram (RFC 1928 section 7): reserved, fragment number, address, port, then the data.

Says where a datagram wants to go. Whether it may, and what a name means, is decided elsewhere.
"""

from gateway.wire.base import Address, Target, WireError
from gateway.wire.socks import ADDRESS_BYTES, ATYP_NAME, decode_target, encode_address
from health.reasons import Reason

MAX_HEADER = 3 + 1 + 1 + 255 + 2  # bytes; a header with an address has 10 or 22
DESTINATION = 3  # where address type, address and port begin

_SHORTEST = 4 + 1 + 2  # a name of no bytes, which is refused later


def data_start(datagram: bytes | memoryview) -> int:
    """Where the data begins; what lies between DESTINATION and there is for `target`.

    Raises WireError: NOT_IMPLEMENTED for a fragment, ADDRESS_UNSUPPORTED, BAD_REQUEST for what is too short or has
    bits in the reserved bytes.
    """
    if len(datagram) < _SHORTEST:
        raise WireError(Reason.BAD_REQUEST, "shorter than a SOCKS5 UDP header")
    if datagram[0] or datagram[1]:
        raise WireError(Reason.BAD_REQUEST, "the reserved bytes are not 0")
    if datagram[2]:
        raise WireError(Reason.NOT_IMPLEMENTED, "a fragment: fragments are not supported")
    atyp = datagram[3]
    size = 1 + datagram[4] if atyp == ATYP_NAME else ADDRESS_BYTES.get(atyp)
    if size is None:
        raise WireError(Reason.ADDRESS_UNSUPPORTED, f"address type {atyp}: use 1, 3 or 4")
    end = 4 + size + 2
    if end > len(datagram):
        raise WireError(Reason.BAD_REQUEST, "the SOCKS5 UDP header is cut short")
    return end


def target(destination: bytes) -> Target:
    """The target in the part of the header that `data_start` delimited. Raises WireError for a bad name or port 0."""
    port = int.from_bytes(destination[-2:])
    if not port:
        raise WireError(Reason.BAD_REQUEST, "the port is no number from 1 to 65535")
    atyp = destination[0]
    return decode_target(atyp, destination[2 if atyp == ATYP_NAME else 1 : -2], port)


def header(sender: Address, port: int) -> bytes:
    """What goes before the data of a datagram that came from `sender`."""
    return bytes(3) + encode_address(sender, port)


def header_to(target: Target) -> bytes:
    """What goes before the data of a datagram for `target`, where another proxy takes it on."""
    if target.address is not None:
        return header(target.address, target.port)
    name = target.host.encode("ascii")
    return bytes((0, 0, 0, ATYP_NAME, len(name))) + name + target.port.to_bytes(2)

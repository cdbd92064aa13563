"""The few bytes of DNS (RFC 1035) that a probe needs: one question out, and whether a datagram answers it."""

import re
import struct

PORT = 53
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_HEADER = struct.Struct("!HHHHHH")
_RECURSION_DESIRED = 0x0100
_RESPONSE = 0x8000
_A_IN = struct.pack("!HH", 1, 1)


def valid_name(name: str) -> bool:
    """Whether `name` can be asked for: RFC 1035 section 2.3.4 lengths, letters, digits, hyphens, underscores."""
    bare = name.removesuffix(".")
    return 0 < len(bare) <= 253 and all(_LABEL.fullmatch(label) for label in bare.split("."))


def question(number: int, name: str) -> bytes:
    """A recursive question for the A records of `name` (valid_name), with `number` (0-65535) as its id."""
    labels = name.removesuffix(".").encode("ascii").split(b".")
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0) + encoded + _A_IN


def answered(datagram: bytes) -> int | None:
    """The id of the question that `datagram` answers, or None if it is no answer.

    Any answer will do, "no such name" or "server failure" too: it shows that the tunnel carries bytes both ways, and
    a fault of the zone that is asked for must not take an exit down.
    """
    if len(datagram) < _HEADER.size:
        return None
    number, flags, *_ = _HEADER.unpack_from(datagram)
    return int(number) if flags & _RESPONSE else None

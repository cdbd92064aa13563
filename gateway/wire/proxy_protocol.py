"""The PROXY protocol, versions 1 and 2, as haproxy.org's proxy-protocol.txt (2020/03/05) defines it.

Reads one header. Who may send one, and within which time, is the caller's to decide.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from gateway.wire.base import MAX_PORT, Address, WireError, parse_host, parse_ipv6
from gateway.wire.sniff import PROXY_V2_SIGNATURE
from health.reasons import Reason

Endpoint = tuple[Address, int]

MAX_V1 = 107  # section 2.1: the longest line, CRLF included
MAX_V2_BODY = 4096  # addresses and TLVs; a larger claim is refused before any of it is read
MAX_UNIQUE_ID = 128  # section 2.2.5

_V2_FIXED = 16
_AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL = 0x02, 0x03, 0x05, 0x20
_ADDRESS_BYTES = {1: 12, 2: 36, 3: 216}
_V1_LINE = re.compile(rb"[\x20-\x7e]*")
_PORT = re.compile("0|[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What the proxy in front says of a connection.

    `local`: the proxy's own connection (a health check). Where `source` is None the socket's own addresses count.
    `authority` is the TLS server name in canonical form, `unique_id` the proxy's name for the connection (1–128 bytes).
    """

    local: bool = False
    source: Endpoint | None = None
    destination: Endpoint | None = None
    authority: str | None = None
    unique_id: bytes | None = None


def parse(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    """Read the header that `data` begins with.

    Returns the header and the bytes it took, or None while it is not complete; never asks for more than 4112 bytes.

    Raises:
        WireError: PROXY_HEADER; nothing after it may be trusted, so the connection ends without a reply.
    """
    if not data:
        return None
    if data[0] == PROXY_V2_SIGNATURE[0]:
        return _parse_v2(data)
    return _parse_v1(bytes(data[:MAX_V1]))


def _refuse(detail: str) -> WireError:
    return WireError(Reason.PROXY_HEADER, f"PROXY header refused: {detail}")


def _parse_v1(data: bytes) -> tuple[ProxyHeader, int] | None:
    line, end, _ = data.partition(b"\r\n")
    text = line if end else line.removesuffix(b"\r")
    if not b"PROXY ".startswith(data[:6]) or not _V1_LINE.fullmatch(text):
        raise _refuse("not a line of printable ASCII that begins with 'PROXY '")
    if end:
        return _v1_header(line.decode("ascii").split(" ")), len(line) + 2
    if len(data) >= MAX_V1:
        raise _refuse(f"no CRLF within {MAX_V1} bytes")
    return None


def _v1_header(words: list[str]) -> ProxyHeader:
    if len(words) >= 2 and words[1] == "UNKNOWN":
        return ProxyHeader()
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise _refuse("version 1 needs TCP4, TCP6 or UNKNOWN, two addresses and two ports")
    version = 4 if words[1] == "TCP4" else 6
    source, destination = (_v1_address(text, version) for text in words[2:4])
    source_port, destination_port = (_v1_port(text) for text in words[4:6])
    return ProxyHeader(source=(source, source_port), destination=(destination, destination_port))


def _v1_address(text: str, version: int) -> Address:
    try:
        return IPv4Address(text) if version == 4 else parse_ipv6(text)
    except (AddressValueError, WireError):
        raise _refuse(f"not an IPv{version} address") from None


def _v1_port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > MAX_PORT:
        raise _refuse("not a port number without leading zeros")
    return int(text)


def _parse_v2(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    fixed = bytes(data[:_V2_FIXED])
    signature = fixed[: len(PROXY_V2_SIGNATURE)]
    if not PROXY_V2_SIGNATURE.startswith(signature):
        raise _refuse("wrong signature")
    if len(fixed) > 12 and fixed[12] not in (0x20, 0x21):
        raise _refuse(f"version and command 0x{fixed[12]:02x}")
    if len(fixed) < _V2_FIXED:
        return None
    end = _V2_FIXED + _v2_length(fixed)
    if len(data) < end:
        return None
    if fixed[12] == 0x20:
        return ProxyHeader(local=True), end
    return _v2_header(bytes(data[:end])), end


def _v2_length(fixed: bytes) -> int:
    """The length of what follows, once the fixed part is known to be acceptable."""
    local, family, transport = fixed[12] == 0x20, fixed[13] >> 4, fixed[13] & 15
    length = int.from_bytes(fixed[14:16])
    if length > MAX_V2_BODY:
        raise _refuse(f"{length} bytes announced, at most {MAX_V2_BODY} are read")
    if local:  # section 2.2: the family of a LOCAL header is ignored
        return length
    if family > 3 or transport > 2:
        raise _refuse(f"family and transport 0x{fixed[13]:02x}")
    if transport == 2:
        raise _refuse("a datagram's header on a stream")
    if transport and length < _ADDRESS_BYTES.get(family, 0):
        raise _refuse(f"{length} bytes are too few for the addresses")
    return length


def _v2_header(header: bytes) -> ProxyHeader:
    family, transport = header[13] >> 4, header[13] & 15
    if not family or not transport:
        return ProxyHeader()
    start = _V2_FIXED + _ADDRESS_BYTES[family]
    tlvs = list(_walk(header, start, len(header)))
    _check_tlvs(header, tlvs)
    source, destination = _v2_endpoints(family, header)
    authority = unique_id = None
    for kind, first, last in tlvs:
        if kind == _AUTHORITY:
            authority = _authority(header[first:last])
        elif kind == _UNIQUE_ID:
            unique_id = _unique_id(header[first:last])
    return ProxyHeader(False, source, destination, authority, unique_id)


def _v2_endpoints(family: int, header: bytes) -> tuple[Endpoint | None, Endpoint | None]:
    at = _V2_FIXED
    if family == 1:
        ports = int.from_bytes(header[at + 8 : at + 10]), int.from_bytes(header[at + 10 : at + 12])
        return (IPv4Address(header[at : at + 4]), ports[0]), (IPv4Address(header[at + 4 : at + 8]), ports[1])
    if family == 2:
        ports = int.from_bytes(header[at + 32 : at + 34]), int.from_bytes(header[at + 34 : at + 36])
        return (IPv6Address(header[at : at + 16]), ports[0]), (IPv6Address(header[at + 16 : at + 32]), ports[1])
    return None, None


def _walk(header: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, first and last position of every TLV in `header[at:end]`."""
    while at < end:
        if end - at < 3:
            raise _refuse("dangling bytes after the last TLV")
        first = at + 3
        last = first + int.from_bytes(header[at + 1 : first])
        if last > end:
            raise _refuse("a TLV reaches past the header")
        yield header[at], first, last
        at = last


def _check_tlvs(header: bytes, tlvs: list[tuple[int, int, int]]) -> None:
    seen: set[int] = set()
    for kind, first, last in tlvs:
        if kind in seen and kind in (_AUTHORITY, _CRC32C, _UNIQUE_ID):
            raise _refuse(f"TLV 0x{kind:02x} twice")
        seen.add(kind)
        if kind == _CRC32C:
            _check_crc(header, first, last)
        elif kind == _SSL:
            if last - first < 5:
                raise _refuse("the SSL TLV is too short")
            for _ in _walk(header, first + 5, last):
                pass


def _check_crc(header: bytes, first: int, last: int) -> None:
    if last - first != 4:
        raise _refuse("the CRC32C is not 4 bytes long")
    if crc32c(header[:first] + bytes(4) + header[last:]) != int.from_bytes(header[first:last]):
        raise _refuse("wrong CRC32C")


def _authority(value: bytes) -> str:
    try:
        return parse_host(value.decode("ascii"))[0]
    except (UnicodeDecodeError, WireError):
        raise _refuse("the authority is no host name") from None


def _unique_id(value: bytes) -> bytes:
    if not 0 < len(value) <= MAX_UNIQUE_ID:
        raise _refuse(f"the unique id is not 1 to {MAX_UNIQUE_ID} bytes long")
    return value


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) as RFC 9260 appendix A computes it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC_TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = tuple(_crc_entry(byte) for byte in range(256))

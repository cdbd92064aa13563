"""Until when a certificate is valid. Pure.

Only the two times are read: which bytes they are is said by DER (X.690, section 8) and by the order of the fields
(RFC 5280, section 4.1). Nothing is verified.
"""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def valid_until(text: str) -> float:
    """Unix seconds at which the first of the certificates in a PEM file ends: a chain is as good as that one.

    Raises ValueError: there is no certificate, or it is not understood.
    """
    try:
        found = [_not_after(base64.b64decode(body)) for body in _PEM.findall(text)]
    except (IndexError, ValueError) as error:
        raise ValueError(f"a certificate is not understood: {error}") from None
    if not found:
        raise ValueError("no certificate is in it")
    return min(found)


def _not_after(der: bytes) -> float:
    (_, certificate), *_ = _parts(der)
    (_, to_be_signed), *_ = _parts(certificate)
    fields = [(tag, value) for tag, value in _parts(to_be_signed) if tag != _VERSION]
    # serialNumber, signature, issuer, validity
    tag, validity = fields[3]
    if tag != _SEQUENCE:
        raise ValueError("no validity where it belongs")
    tag, value = list(_parts(validity))[1]
    return _time(tag, value.decode("ascii"))


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size]), at + size
        if at + length > len(der):
            raise ValueError("it is cut off")
        yield tag, der[at : at + length]
        at += length


def _time(tag: int, text: str) -> float:
    if tag == _UTC_TIME:
        # RFC 5280, section 4.1.2.5.1: two digits below 50 are this century.
        text = ("20" if text[:2] < "50" else "19") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time where it belongs")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()

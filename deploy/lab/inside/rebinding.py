"""A DNS server (RFC 1035) that answers one way first and another way ever after, as DNS rebinding does.

A name says itself what it means: `198-19-10-80.127-0-0-1.anything.rebind.<zone>` is 198.19.10.80 to who asks first and
127.0.0.1 to everybody later, for one second each. Any other question has no answer.
"""

import socket
import struct
from ipaddress import IPv4Address

ADDRESS = ("127.0.0.1", 5353)
TTL_S = 1
NAMES_KEPT = 10_000

_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")
_RECORD = struct.Struct("!3HIH4s")
_ANSWERS = 0x8580  # a response, authoritative, recursion desired and available
_FIRST_NAME = 0xC00C  # a pointer to the name in the question (section 4.1.4)
_A_IN = (1, 1)


class Rebinding:
    """What was asked for already. `answer` is all there is to it."""

    def __init__(self) -> None:
        self._asked: set[bytes] = set()

    def answer(self, query: bytes) -> bytes:
        """The response to a query of one question. Raises ValueError where it is none."""
        try:
            number, _, questions, *_ = _HEADER.unpack_from(query)
            labels, end = _labels(query, _HEADER.size)
            kind = _QUESTION.unpack_from(query, end)
        except (struct.error, IndexError):
            raise ValueError("not a DNS query") from None
        address = self._address(labels) if kind == _A_IN and questions == 1 else None
        head = _HEADER.pack(number, _ANSWERS, 1, int(address is not None), 0, 0)
        question = query[_HEADER.size : end + _QUESTION.size]
        if address is None:
            return head + question
        return head + question + _RECORD.pack(_FIRST_NAME, *_A_IN, TTL_S, 4, address.packed)

    def _address(self, labels: list[bytes]) -> IPv4Address | None:
        name = b".".join(labels).lower()
        try:
            first, later = (IPv4Address(label.decode().replace("-", ".")) for label in labels[:2])
        except ValueError:
            return None
        if name in self._asked:
            return later
        if len(self._asked) < NAMES_KEPT:
            self._asked.add(name)
        return first


def _labels(query: bytes, at: int) -> tuple[list[bytes], int]:
    """The labels of the name at `at`, and where it ends. Raises IndexError."""
    labels = []
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size])
        at += 1 + size
    return labels, at + 1


def main() -> None:
    rebinding = Rebinding()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(ADDRESS)
        while True:
            query, asker = sock.recvfrom(512)
            try:
                sock.sendto(rebinding.answer(query), asker)
            except ValueError:
                continue


if __name__ == "__main__":
    main()

"""A DNS server for tests: a few names, each with a behaviour, over UDP."""

import socket
import struct
import threading
from pathlib import Path

# name -> (response code, records as (type, TTL, data))
_A, _CNAME, _AAAA = 1, 5, 28
ZONE: dict[bytes, tuple[int, list[tuple[int, int, bytes]]]] = {
    b"probe.test": (0, [(_A, 60, bytes([192, 0, 2, 1]))]),
    b"one.test": (0, [(_A, 30, bytes([192, 0, 2, 1])), (_A, 20, bytes([192, 0, 2, 2]))]),
    b"alias.test": (0, [(_CNAME, 7, b"\x03one\x04test\x00"), (_A, 30, bytes([192, 0, 2, 1]))]),
    b"six.test": (0, [(_AAAA, 30, bytes([0x20, 1, 0xD, 0xB8] + [0] * 11 + [1]))]),
    b"empty.test": (0, []),
    b"broken.test": (2, []),
}
SILENT = b"slow.test"


class DnsStandIn:
    """Answers on `address` until closed. While the file `mute` exists it answers nobody."""

    def __init__(self, address: tuple[str, int], mute: Path) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self.port: int = self._socket.getsockname()[1]
        self.asked: list[bytes] = []
        self._mute = mute
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(2048)
            if not data:
                return
            answer = reply(data)
            self.asked.append(data)
            if answer and not self._mute.exists():
                self._socket.sendto(answer, peer)


def reply(question: bytes) -> bytes:
    """The answer to one question; empty for the silent name."""
    name, end = _name(question, 12)
    kind = struct.unpack_from("!H", question, end)[0]
    if name == SILENT:
        return b""
    code, records = ZONE.get(name, (3, []))
    wanted = [record for record in records if record[0] in (kind, _CNAME)]
    header = question[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(wanted), 0, 0)
    body = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", t, 1, ttl, len(data)) + data for t, ttl, data in wanted)
    return header + question[12 : end + 4] + body


def _name(data: bytes, offset: int) -> tuple[bytes, int]:
    labels = []
    while data[offset]:
        labels.append(data[offset + 1 : offset + 1 + data[offset]])
        offset += 1 + data[offset]
    return b".".join(labels).lower(), offset + 1

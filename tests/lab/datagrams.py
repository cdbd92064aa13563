"""SOCKS5 UDP through a gateway of the lab, and a look at what goes over the host's wires meanwhile.

Datagrams do not pass HAProxy, so the gateway itself is asked. The client is 127.0.0.2: 127.0.0.1 is HAProxy's address,
from which the gateways want a PROXY header.
"""

import contextlib
import socket
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Self

import dns.message
import dns.rdatatype

from gateway.wire.socks import encode_address
from tests.lab.harness import Lab

CLIENT = "127.0.0.2"
_EVERY_PROTOCOL = 3  # ETH_P_ALL, <linux/if_ether.h>
_SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
_WIRE_BUFFER = 64 << 20
_HEADER = 10  # RFC 1928 section 7: reserved, fragment, ATYP, an IPv4 address and a port


class Association:
    """One UDP ASSOCIATE (RFC 1928 section 7) of the lab's user, who asks for `want`: "jp", "jp-node-jp3f9a1c"."""

    def __init__(self, lab: Lab, want: str, gateway: int = 0) -> None:
        told = lab.status["proxy"]
        here = (told["host"], lab.gateways[gateway])
        self._tcp = socket.create_connection(here, timeout=10, source_address=(CLIENT, 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._udp.bind((CLIENT, 0))
            self._udp.connect(self._associated(f"{told['user']}-country-{want}", told["password"]))
        except BaseException:
            self.close()
            raise

    def _associated(self, user: str, password: str) -> tuple[str, int]:
        """Where the gateway wants the datagrams."""
        login = b"".join(bytes([len(text)]) + text.encode() for text in (user, password))
        anywhere = encode_address(ip_address("0.0.0.0"), 0)
        self._tcp.sendall(b"\x05\x01\x02" + b"\x01" + login + b"\x05\x03\x00" + anywhere)
        told = b""
        while len(told) < 4 + _HEADER:
            chunk = self._tcp.recv(4 + _HEADER - len(told))
            assert chunk, f"closed after {told!r}"
            told += chunk
        assert told[:8] == b"\x05\x02\x01\x00\x05\x00\x00\x01", told
        return str(ip_address(told[8:12])), int.from_bytes(told[12:])

    def send(self, host: str, port: int, data: bytes) -> None:
        self._udp.send(bytes(3) + encode_address(ip_address(host), port) + data)

    def receive(self, seconds: float = 5) -> bytes:
        """The next answer's data, from whatever IPv4 address; empty where none comes in time."""
        self._udp.settimeout(seconds)
        try:
            return self._udp.recv(65536)[_HEADER:]
        except TimeoutError:
            return b""

    def ask(self, host: str, port: int, data: bytes) -> bytes:
        self.send(host, port, data)
        return self.receive()

    def addresses(self, server: str, name: str) -> list[str]:
        """What the DNS server at `server` says of `name`, IPv4."""
        question = dns.message.make_query(name, dns.rdatatype.A)
        for _ in range(3):  # a datagram may be lost, or come late
            self.send(server, 53, question.to_wire())
            while data := self.receive():
                answer = dns.message.from_wire(data)
                if question.is_response(answer):
                    return [str(record) for found in answer.answer for record in found]
        raise AssertionError(f"no answer from {server}")

    def ended(self) -> bool:
        """Whether the gateway has closed the TCP connection that it lives by."""
        self._tcp.setblocking(False)
        try:
            return self._tcp.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._tcp.close()
        self._udp.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Wires:
    """Every frame on the host's interfaces but loopback, exits' and servers' ends included."""

    def __init__(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_PACKET, kind, socket.htons(_EVERY_PROTOCOL))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WIRE_BUFFER)

    def seen(self, marks: Sequence[bytes]) -> Counter[bytes]:
        """How often each of `marks` has gone by since the last call."""
        found: Counter[bytes] = Counter()
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (interface, *_) = self._sock.recvfrom(65536)
                if interface != "lo":
                    found.update(mark for mark in marks if mark in frame)
        return found

    def close(self) -> None:
        self._sock.close()

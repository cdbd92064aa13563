"""A SOCKS5 client that sends datagrams, by hand."""

import contextlib
import socket
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from gateway.wire.socks import encode_address
from tests.gateway.harness import Gateway

LOCAL = "127.0.0.1"
WAIT_S = 20.0


def named(name: str, port: int) -> bytes:
    return b"\x03" + bytes([len(name)]) + name.encode() + port.to_bytes(2)


def at(address: str, port: int) -> bytes:
    return encode_address(ip_address(address), port)


def prefixed(user: str, password: str) -> bytes:
    return b"\x05\x01\x02\x01" + bytes([len(user)]) + user.encode() + bytes([len(password)]) + password.encode()


class Client:
    """One association, and the socket the datagrams come from."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        user: str = "u-country-jp",
        password: str = "",
        source: str = LOCAL,
        origin: bytes = at("0.0.0.0", 0),
        first: bytes = b"",
        host: str = LOCAL,
    ) -> None:
        self.tcp = socket.create_connection((host, gateway.port), timeout=WAIT_S)
        self.udp = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self.udp.bind((source, 0))
            self.udp.settimeout(WAIT_S)
            self.tcp.sendall(first + prefixed(user, password) + b"\x05\x03\x00" + origin)
            self.told()
        except BaseException:
            self.close()
            raise

    def told(self) -> None:
        assert self.read(4) == b"\x05\x02\x01\x00"
        head = self.read(4)
        self.code = head[1]
        size = {1: 4, 4: 16}[head[3]]
        self.relay: tuple[str, int] = (str(ip_address(self.read(size))), int.from_bytes(self.read(2)))

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.tcp.recv(size - len(data))
            assert chunk, f"closed after {data!r}"
            data += chunk
        return data

    def send(self, destination: bytes, data: bytes, *, head: bytes = bytes(3)) -> None:
        self.udp.sendto(head + destination + data, self.relay)

    def receive(self) -> tuple[bytes, bytes]:
        """Where an answer says it comes from, and its data."""
        datagram, source = self.udp.recvfrom(65536)
        assert source[:2] == self.relay
        assert datagram[:3] == bytes(3)
        size = {1: 7, 4: 19}[datagram[3]]
        return datagram[3 : 3 + size], datagram[3 + size :]

    def ask(self, destination: bytes, data: bytes) -> tuple[bytes, bytes]:
        self.send(destination, data)
        return self.receive()

    def nothing_comes(self, seconds: float = 0.2) -> bool:
        self.udp.settimeout(seconds)
        try:
            self.udp.recvfrom(65536)
        except TimeoutError:
            return True
        finally:
            self.udp.settimeout(WAIT_S)
        return False

    def ended(self, seconds: float = WAIT_S) -> bool:
        self.tcp.settimeout(seconds)
        with contextlib.suppress(ConnectionResetError):
            return self.tcp.recv(1) == b""
        return True

    def close(self) -> None:
        self.tcp.close()
        self.udp.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

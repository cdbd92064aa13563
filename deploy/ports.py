"""Are the addresses to listen on free, and if not, who has them?"""

import errno
import os
import random
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_FIRST_FREE = 11_000  # above those of the countries
_TRIES = 1000
_given: set[int] = set()
_LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it (Linux, include/net/tcp_states.h)


def split(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def free(host: str = "127.0.0.1") -> int:
    """A port of `host` that nobody listens on, another one each time.

    It lies between those of the countries and those that the kernel gives to outgoing connections (ip(7),
    ip_local_port_range), so that none of these takes it before somebody listens there. Raises OSError.
    """
    last = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]) - 1
    for _ in range(_TRIES):
        port = random.randint(_FIRST_FREE, max(last, _FIRST_FREE + _TRIES))  # noqa: S311 - no secret
        if port not in _given and not fault(f"{host}:{port}"):
            _given.add(port)
            return port
    raise OSError(errno.EADDRINUSE, f"no free port found from {_FIRST_FREE} to {last}")


def reachable(address: str) -> tuple[str, int]:
    """Where a listener on `address` is dialled from this machine: loopback for all-zero hosts."""
    host, port = split(address)
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104


def fault(address: str) -> str:
    """Why nothing can listen on `address`, in a few words; empty where it can."""
    host, port = split(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        return f"{host} is no address of this machine ({error.strerror})"
    with socket.socket(family, kind, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(where)
            sock.listen(1)
        except OSError as error:
            return _explain(error, host, port)
    return ""


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"the port is taken by {holder(host, port) or 'another program'}"
    if error.errno == errno.EACCES:
        return "ports below 1024 need root"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine"
    return error.strerror or str(error)


def holder(host: str, port: int) -> str:
    """The program that listens there, as `name (process 123)`; empty where that may not be seen."""
    for process in _holding(host, port):
        try:
            return f"{(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:
            continue
    return ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A program that listens somewhere: its command line, its environment, and the directory it was started in."""

    command: tuple[str, ...]
    environ: Mapping[str, str]
    directory: Path


def holding_program(host: str, port: int) -> Holder | None:
    """The program that listens there; None where that may not be seen."""
    for process in _holding(host, port):
        try:
            pairs = (word.partition("=") for word in _words(process / "environ"))
            environ = {name: value for name, _, value in pairs}
            return Holder(_words(process / "cmdline"), environ, (process / "cwd").readlink())
        except OSError:
            continue
    return None


def _words(file: Path) -> tuple[str, ...]:
    return tuple(word.decode(errors="replace") for word in file.read_bytes().rstrip(b"\0").split(b"\0"))


def _holding(host: str, port: int) -> Iterator[Path]:
    """The directories in /proc of the processes that have a socket listening there."""
    inodes = {f"socket:[{inode}]" for inode in _listening(host, port)}
    for process in Path("/proc").iterdir():
        if inodes and process.name.isdigit() and _has_one(process, inodes):
            yield process


def _listening(host: str, port: int) -> list[str]:
    """Inodes of the sockets that listen on `port` of `host`, or of all addresses."""
    found = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            rows = [line.split() for line in table.read_text().splitlines()[1:]]
        except OSError:
            continue
        for row in rows:
            address, _, number = row[1].rpartition(":")
            if row[3] == _LISTEN and int(number, 16) == port and _overlap(_address(address), host):
                found.append(row[9])
    return found


def _address(text: str) -> IPv4Address | IPv6Address:
    """An address of /proc/net/tcp: 32-bit words in hexadecimal, each in the machine's byte order."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    return ip_address(b"".join(words))


def _overlap(listening: IPv4Address | IPv6Address, host: str) -> bool:
    try:
        wanted = ip_address(host)
    except ValueError:
        return True  # a name; the port alone has to do
    return listening == wanted or listening.is_unspecified or wanted.is_unspecified


def _has_one(process: Path, sockets: set[str]) -> bool:
    try:
        return any(os.readlink(descriptor) in sockets for descriptor in (process / "fd").iterdir())
    except OSError:
        return False

"""WireGuard by wireguard-go: its configuration protocol, and the program as PID 1 runs it.

The configuration protocol is the one of https://www.wireguard.com/xplatform/ ("key=value" lines over a Unix socket).
PID 1 makes that socket and the tunnel device itself and hands both over, so that the program needs no capability and
the private key goes from a file into the program, never through an argument, the environment or another process.
"""

import os
import platform
import selectors
import socket
import time
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from health.agent import nodefile, protocol, routes, seccomp, spawn, tun
from health.agent.killswitch import Endpoint
from health.agent.program import Failure, Link

KEEPALIVE = 25
SHARED_KEY = "wg.psk"
"""Beside the private key where the server wants a key that both sides share, too."""
_MTU = 1420
_OVERHEAD = 80  # outer IPv6 and UDP headers, WireGuard's own 32 bytes, rounded as wg-quick does
# Where wireguard-go looks for it; it watches the file, so it must be able to read it.
_SOCKET_DIRECTORY = "/run/wireguard"
_ANSWER_LIMIT = 65536
_PROCESSORS = 8


def settings(private_key: bytes, server_key: bytes, endpoint: Endpoint, preshared_key: bytes | None = None) -> bytes:
    """The `set` message for one peer that gets all IPv4."""
    shared = f"preshared_key={preshared_key.hex()}\n" if preshared_key is not None else ""
    return (
        "set=1\n"
        f"private_key={private_key.hex()}\n"
        "replace_peers=true\n"
        f"public_key={server_key.hex()}\n"
        f"{shared}"
        f"endpoint={endpoint.address}:{endpoint.port}\n"
        f"persistent_keepalive_interval={KEEPALIVE}\n"
        "allowed_ip=0.0.0.0/0\n"
        "\n"
    ).encode()


def fields(answer: bytes) -> dict[str, str]:
    """The last value of each key in an answer; with a single peer every key is there once."""
    pairs = (line.partition("=") for line in answer.decode("ascii", "replace").splitlines())
    return {key: value for key, _, value in pairs if key}


@dataclass(slots=True)
class HandshakeAge:
    """How long ago the last handshake was, by the monotonic clock, which a set wall clock does not move."""

    _stamp: str = ""
    _seen: float = 0.0

    def update(self, answer: dict[str, str], now: float) -> float | None:
        """Take in a `get` answer; the age in seconds, or None before the first handshake."""
        seconds = answer.get("last_handshake_time_sec", "0")
        stamp = f"{seconds}.{answer.get('last_handshake_time_nsec', '0')}"
        if seconds == "0":
            return None
        if stamp != self._stamp:
            self._stamp, self._seen = stamp, now
        return now - self._seen


class WireGuard:
    """The VPN program of a `wireguard` node."""

    def __init__(self, node: nodefile.NodeFile, key_file: Path, uplink_mtu: int) -> None:
        self._node = node
        self._key_file = key_file
        self._mtu = min(_MTU, uplink_mtu - _OVERHEAD)
        self._age = HandshakeAge()
        self._path = f"{_SOCKET_DIRECTORY}/{tun.DEVICE}.sock"
        self.link = Link(up=False, reason="starting WireGuard", dns=node.dns)
        self.failure: Failure | None = None

    def start(self, selector: selectors.BaseSelector, output: int) -> int:
        """Start the program, configure it and open the tunnel; its process id. Raises Failure, OSError."""
        private_key = _key(self._key_file)
        shared_file = self._key_file.with_name(SHARED_KEY)
        preshared_key = _key(shared_file) if shared_file.exists() else None
        device = tun.create()
        listener = self._listen()
        try:
            pid = _spawn(device, listener.fileno(), output)
        finally:
            os.close(device)
            listener.close()
        self._configure(settings(private_key, self._node.server_public_key, self._node.endpoint, preshared_key))
        address = self._node.address or IPv4Interface("0.0.0.0/32")
        routes.apply(routes.open_tunnel(tun.DEVICE, address, self._mtu))
        # Whether anybody answers, only the probe can tell: WireGuard knows no connection.
        self.link = Link(up=True, reason="", dns=self._node.dns)
        return pid

    def tick(self) -> None:
        """Once a second: ask how old the handshake is."""
        try:
            self.link.handshake_age_s = self._age.update(self._ask(b"get=1\n\n"), time.monotonic())
        except OSError:
            # A program that is ending; its end is reported on its own.
            self.link.handshake_age_s = None

    def stop(self) -> bool:
        """WireGuard has no farewell."""
        return False

    def _configure(self, message: bytes) -> None:
        try:
            answer = self._ask(message, timeout=5)
        except OSError as error:
            raise Failure(protocol.Ended.VPN_ENDED, f"WireGuard did not start: {error}") from None
        if answer.get("errno") != "0":
            raise Failure(protocol.Ended.CONFIG, f"WireGuard refused its configuration: error {answer.get('errno')}")

    def _listen(self) -> socket.socket:
        os.makedirs(_SOCKET_DIRECTORY, mode=0o755, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(self._path)
        os.chmod(self._path, 0o604)
        listener.listen(8)
        return listener

    def _ask(self, message: bytes, timeout: float = 0.5) -> dict[str, str]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as talk:
            talk.settimeout(timeout)
            talk.connect(self._path)
            talk.sendall(message)
            answer = b""
            while not answer.endswith(b"\n\n") and len(answer) < _ANSWER_LIMIT:
                part = talk.recv(4096)
                if not part:
                    break
                answer += part
        return fields(answer)


def _key(path: Path) -> bytes:
    try:
        return nodefile.key(path.read_text())
    except (ValueError, OSError) as error:
        raise Failure(protocol.Ended.CONFIG, f"{path.name}: {error}") from None


def _spawn(device: int, listener: int, output: int) -> int:
    program = seccomp.mtu_filter(platform.machine())
    return spawn.spawn(
        ["wireguard-go", "-f", tun.DEVICE],
        user=protocol.VPN_UID,
        group=protocol.VPN_UID,
        output=output,
        environment={
            "LOG_LEVEL": "error",
            # Go makes a thread for each processor, and more; a container may have 64 processes.
            "GOMAXPROCS": str(min(_PROCESSORS, os.cpu_count() or 1)),
            "WG_PROCESS_FOREGROUND": "1",
            "WG_TUN_FD": str(device),
            "WG_UAPI_FD": str(listener),
        },
        descriptors=(device, listener),
        before=lambda: seccomp.apply(program),
    )

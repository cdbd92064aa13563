"""OpenVPN's management interface (doc/management-notes.txt), sans I/O: bytes in, replies and the link's state out."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Interface

from health.agent.nodefile import dns_server

_LINE_LIMIT = 16384
_PUSHED = "PUSH: Received control message: '"
_DNS = re.compile(r"dhcp-option DNS6? ([0-9a-fA-F.:]+)|dns server \d+ address ([0-9.]+)")
_STARTED = b"state on\nlog on\n"
_RELEASE = b"hold release\n"


class ManagementError(Exception):
    """What came is not OpenVPN's management interface."""


@dataclass(slots=True)
class State:
    """`name` is OpenVPN's own word (CONNECTING, AUTH, CONNECTED, RECONNECTING, EXITING); `address` is ours inside the
    tunnel once connected; `auth_failed` holds the server's words when it refused the credentials."""

    name: str = ""
    detail: str = ""
    address: IPv4Interface | None = None
    dns: tuple[str, ...] = ()
    auth_failed: str | None = None

    @property
    def connected(self) -> bool:
        return self.name == "CONNECTED" and self.address is not None


class Management:
    """One management connection."""

    def __init__(self) -> None:
        self.state = State()
        self._rest = b""
        self._greeted = False

    def feed(self, data: bytes) -> bytes:
        """Take in what OpenVPN sent, however it was split; what to send back. Raises ManagementError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_LIMIT:
            raise ManagementError("line too long")
        return b"".join(self._line(line.decode("utf-8", "replace").rstrip("\r")) for line in lines)

    def _line(self, line: str) -> bytes:
        kind, _, rest = line.partition(":")
        match kind:
            case ">HOLD":
                first, self._greeted = not self._greeted, True
                return (_STARTED if first else b"") + _RELEASE
            case ">STATE":
                self._on_state(rest.split(","))
            case ">LOG":
                self._on_log(rest)
            case ">PASSWORD" if rest.startswith("Verification Failed"):
                _, _, words = rest.partition("[")
                self.state.auth_failed = words.strip("[]'") or "AUTH_FAILED"
        return b""

    def _on_state(self, columns: list[str]) -> None:
        # time, state, detail, local address, remote address, ...
        _, name, detail, local, *_ = [*columns, "", "", "", ""]
        self.state.name, self.state.detail = name, detail
        if name == "CONNECTED":
            self.state.address = _interface(local)
        if "auth-failure" in detail and self.state.auth_failed is None:
            self.state.auth_failed = "AUTH_FAILED"

    def _on_log(self, text: str) -> None:
        _, found, pushed = text.partition(_PUSHED)
        if found:
            servers = (first or second for first, second in _DNS.findall(pushed))
            self.state.dns = tuple(dict.fromkeys(server for server in servers if _usable(server)))


def _interface(text: str) -> IPv4Interface | None:
    try:
        return IPv4Interface(text)
    except ValueError:
        return None


def _usable(server: str) -> bool:
    try:
        dns_server(server)
    except ValueError:
        return False
    return True

"""The servers that a VPN file names: host, port, transport. Pure."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address

from control.providers.servers import endpoint_address
from health.agent.dns import valid_name


@dataclass(frozen=True, slots=True)
class Remote:
    """`host` is a name in lower case or an IPv4 address; `transport` udp or tcp."""

    host: str
    port: int
    transport: str

    @property
    def is_address(self) -> bool:
        try:
            IPv4Address(self.host)
        except ValueError:
            return False
        return True


def host_of(text: str) -> str:
    """A host as written in a file. Raises ValueError: no name and no IPv4 address that a server can have."""
    if re.fullmatch(r"[0-9.]+", text):
        return endpoint_address(text)
    name = text.lower().removesuffix(".")
    if ":" in text or text.startswith("["):
        raise ValueError("exits reach servers by IPv4 alone")
    if not text.isascii() or not valid_name(name) or name.endswith("localhost"):
        raise ValueError("a host name or an IPv4 address is expected")
    return name


def port_of(text: str) -> int:
    """A port from 1 to 65535. Raises ValueError."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError("a port from 1 to 65535 is expected")
    return int(text)

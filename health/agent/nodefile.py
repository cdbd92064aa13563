"""`node.json`: what control tells an exit container about itself. No secret is in it."""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any, Literal, TypeVar

from health.agent import insights
from health.agent.dns import valid_name
from health.agent.killswitch import Endpoint

SCHEMA = 1
MAX_TARGETS = 8
WIREGUARD = "wireguard"
OPENVPN_UDP = "openvpn_udp"
OPENVPN_TCP = "openvpn_tcp"
PROTOCOLS = (WIREGUARD, OPENVPN_UDP, OPENVPN_TCP)

T = TypeVar("T")


class ConfigError(ValueError):
    """The container was given something it cannot run with. The message names the field, never a secret."""


@dataclass(frozen=True, slots=True)
class NodeFile:
    """A checked `node.json`. `address` and `server_public_key` are set for WireGuard alone.

    `targets` (addresses and ports, 8 at most) are reached for through the tunnel; `insights_url` says how a caller
    looks from outside, empty where nobody is to be asked.
    """

    node: str
    country: str
    protocol: str
    endpoint: Endpoint
    dns: tuple[str, ...]
    probe_name: str
    address: IPv4Interface | None
    server_public_key: bytes
    targets: tuple[str, ...] = ()
    insights_url: str = ""


def read(path: Path) -> NodeFile:
    """Read and check the file. Raises ConfigError."""
    try:
        return parse(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: {error}") from None


def parse(text: str) -> NodeFile:
    """Read `node.json`. Unknown fields are ignored. Raises ConfigError."""
    try:
        raw = json.loads(text)
    except ValueError:
        raise ConfigError("node.json: not JSON") from None
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise ConfigError(f"node.json: schema {SCHEMA} expected")
    protocol = _field(raw, "protocol", _one_of(*PROTOCOLS))
    wireguard = protocol == WIREGUARD
    endpoint = _endpoint(_field(raw, "endpoint", _mapping))
    if (endpoint.transport == "tcp") != (protocol == OPENVPN_TCP):
        raise ConfigError(f"node.json: {protocol} does not go over {endpoint.transport}")
    return NodeFile(
        node=_field(raw, "node", _text),
        country=_field(raw, "country", _text),
        protocol=protocol,
        endpoint=endpoint,
        dns=_field(raw, "dns", _servers),
        probe_name=_field(raw, "probe_name", _name),
        address=_field(raw, "address", IPv4Interface) if wireguard else None,
        server_public_key=_field(raw, "server_public_key", key) if wireguard else b"",
        targets=_field({"targets": [], **raw}, "targets", _targets),
        insights_url=_field({"insights_url": "", **raw}, "insights_url", _insights_url),
    )


def key(text: str) -> bytes:
    """The 32 bytes of a WireGuard key in base64. Raises ValueError."""
    try:
        found = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
    if len(found) != 32:
        raise ValueError("not 32 bytes")
    return found


def dns_server(text: str) -> str:
    """A name server's address, if it is one that can lie behind a tunnel. Raises ValueError."""
    address = IPv4Address(text)
    if address.is_loopback or address.is_multicast or address.is_unspecified:
        raise ValueError(f"{address} is no name server behind a tunnel")
    return str(address)


def target(text: str) -> str:
    """An IPv4 address and a port as one text, if that can be reached for through a tunnel. Raises ValueError."""
    address, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text[:40]!r} is not an address and port such as 9.9.9.9:443")
    found = IPv4Address(address)
    if found.is_loopback or found.is_multicast or found.is_unspecified:
        raise ValueError(f"{found} is not behind a tunnel")
    return f"{found}:{int(port)}"


def _endpoint(raw: Mapping[str, Any]) -> Endpoint:
    transport: Literal["udp", "tcp"] = "tcp" if _field(raw, "transport", _one_of("udp", "tcp")) == "tcp" else "udp"
    return Endpoint(
        address=_field(raw, "address", IPv4Address),
        port=_field(raw, "port", _port),
        transport=transport,
    )


def _field(raw: Mapping[str, Any], name: str, read: Callable[[Any], T]) -> T:
    if name not in raw:
        raise ConfigError(f"node.json: {name} is missing")
    try:
        return read(raw[name])
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"node.json: {name}: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 255:
        raise ValueError("a text of 1 to 255 characters expected")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an object expected")
    return value


def _port(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError("a port from 1 to 65535 expected")
    return value


def _name(value: Any) -> str:
    if not valid_name(_text(value)):
        raise ValueError("a DNS name expected")
    return _text(value)


def _servers(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("a list expected")
    return tuple(dns_server(item) for item in value)


def _targets(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_TARGETS:
        raise ValueError(f"a list of at most {MAX_TARGETS} expected")
    return tuple(dict.fromkeys(target(_text(item)) for item in value))


def _insights_url(value: Any) -> str:
    if value:
        insights.source(_text(value))
    return str(value)


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)} expected")
        return str(value)

    return read

"""VPN servers as NordVPN's API describes them, and which of them will do. Pure.

Every value comes from outside and ends up in configuration files: host names, addresses and keys are checked here,
and a server with a wrong one is left out.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from control.providers import Wish
from health import countries
from health.model import Protocol

# Identifiers, ports and transports: architecture page, "Facts about the outside".
TECHNOLOGY = {
    Protocol.WIREGUARD: "wireguard_udp",
    Protocol.OPENVPN_UDP: "openvpn_udp",
    Protocol.OPENVPN_TCP: "openvpn_tcp",
}
ENDPOINT = {
    Protocol.WIREGUARD: (51820, "udp"),
    Protocol.OPENVPN_UDP: (1194, "udp"),
    Protocol.OPENVPN_TCP: (443, "tcp"),
}
_HOSTNAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+")


@dataclass(frozen=True, slots=True)
class Server:
    """One VPN server. `address` is its entry address; `technologies` those that are online there."""

    hostname: str
    address: str
    country: str
    city: str
    load: int
    technologies: frozenset[str]
    public_key: str = ""


@dataclass(frozen=True, slots=True)
class Land:
    """A country as the API numbers it."""

    id: int
    code: str


def parse_servers(answer: Any) -> list[Server]:
    """The usable servers of an answer to `/v1/servers` or `/v1/servers/recommendations`, in their order."""
    found = (_server(entry) for entry in answer) if isinstance(answer, list) else ()
    return [server for server in found if server is not None]


def parse_countries(answer: Any) -> list[Land]:
    """The countries of an answer to `/v1/servers/countries`."""
    found = []
    for entry in answer if isinstance(answer, list) else ():
        try:
            found.append(Land(int(entry["id"]), countries.normalise(entry["code"])))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found


def suitable(servers: Iterable[Server], wish: Wish, in_use: Collection[str]) -> list[Server]:
    """The servers that fulfil `wish` and are not in `in_use` (host names and addresses), in their order."""
    technology = TECHNOLOGY[wish.protocol]
    return [
        server
        for server in servers
        if server.country == wish.country
        and technology in server.technologies
        and (wish.protocol is not Protocol.WIREGUARD or server.public_key)
        and server.hostname not in in_use
        and server.address not in in_use
        and (not wish.server or server.hostname == wish.server.lower())
        and (not wish.city or _fold(server.city) == _fold(wish.city))
    ]


def _server(entry: Any) -> Server | None:
    try:
        hostname, place = entry["hostname"].lower(), entry["locations"][0]["country"]
        if entry["status"] != "online" or not _HOSTNAME.fullmatch(hostname):
            return None
        online = [t for t in entry["technologies"] if t.get("pivot", {}).get("status", "online") == "online"]
        return Server(
            hostname=hostname,
            address=str(ipaddress.IPv4Address(entry["station"])),
            country=countries.normalise(place["code"]),
            city=str(place.get("city", {}).get("name", ""))[:64],
            load=int(entry.get("load", 100)),
            technologies=frozenset(t["identifier"] for t in online),
            public_key=_public_key(online),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


def _public_key(technologies: list[dict[str, Any]]) -> str:
    for technology in technologies:
        if technology["identifier"] == TECHNOLOGY[Protocol.WIREGUARD]:
            for item in technology.get("metadata", ()):
                if item.get("name") == "public_key" and is_wireguard_key(item.get("value")):
                    return str(item["value"])
    return ""


def is_wireguard_key(text: Any) -> bool:
    """True for the base64 text of 32 bytes, as wg(8) writes keys."""
    try:
        return isinstance(text, str) and len(text) == 44 and len(base64.b64decode(text, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


def _fold(city: str) -> str:
    return re.sub(r"[^a-z0-9]", "", city.lower())

"""VPN servers as NordVPN's API describes them, and which of them will do. Pure.

Every value comes from outside and ends up in configuration files: host names, addresses and keys are checked here,
and a server with a wrong one is left out.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
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
VIRTUAL = "virtual_location"
_HOSTNAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+")


@dataclass(frozen=True, slots=True)
class Server:
    """One VPN server. `address` is its entry address; `technologies` those that are online there.

    `virtual`: it seems to be in `country`, and stands elsewhere.
    """

    hostname: str
    address: str
    country: str
    city: str
    load: int
    technologies: frozenset[str]
    public_key: str = ""
    virtual: bool = False


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
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
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


def preferred(servers: Iterable[Server], avoid: Mapping[str, float]) -> list[Server]:
    """`servers`, the best first: those in `avoid` (host name to weight) last, virtual ones after true ones."""
    weights = [(avoid.get(server.hostname, 0.0), server) for server in servers]
    ordered = sorted(weights, key=lambda one: (one[0] > 0, one[1].virtual, one[0]))
    return [server for _, server in ordered]


def land_as_told(land: Land) -> dict[str, Any]:
    """What `parse_countries` reads as `land` again."""
    return {"id": land.id, "code": land.code.upper()}


def server_as_told(server: Server) -> dict[str, Any]:
    """What `parse_servers` reads as `server` again."""
    place = {"code": server.country.upper(), "city": {"name": server.city}}
    key = [{"name": "public_key", "value": server.public_key}] if server.public_key else []
    return {
        "hostname": server.hostname,
        "station": server.address,
        "load": server.load,
        "status": "online",
        "locations": [{"country": place}],
        "technologies": [
            {"identifier": name, "metadata": key if name == TECHNOLOGY[Protocol.WIREGUARD] else []}
            for name in sorted(server.technologies)
        ],
        "specifications": [{"identifier": VIRTUAL}] if server.virtual else [],
    }


def _server(entry: Any) -> Server | None:
    try:
        hostname, place = entry["hostname"].lower(), entry["locations"][0]["country"]
        if entry["status"] != "online" or not _HOSTNAME.fullmatch(hostname):
            return None
        online = [t for t in entry["technologies"] if t.get("pivot", {}).get("status", "online") == "online"]
        return Server(
            hostname=hostname,
            address=endpoint_address(entry["station"]),
            country=countries.normalise(place["code"]),
            city="".join(c for c in str(place.get("city", {}).get("name", ""))[:64] if c.isprintable()),
            load=min(max(int(entry.get("load", 100)), 0), 100),
            technologies=frozenset(name for t in online if isinstance(name := t["identifier"], str)),
            public_key=_public_key(online),
            virtual=any(map(_says_virtual, entry.get("specifications") or ())),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def endpoint_address(text: str) -> str:
    """An address that a VPN server can have. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("an address expected")
    address = ipaddress.IPv4Address(text)
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise ValueError(f"{address} is no address of a VPN server")
    return str(address)


def _says_virtual(specification: dict[str, Any]) -> bool:
    if specification.get("identifier") != VIRTUAL:
        return False
    values = [str(one.get("value")).lower() for one in specification.get("values") or ()]
    return not values or any(value not in ("false", "0", "no", "", "none") for value in values)


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

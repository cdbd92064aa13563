"""The lab's small Internet, as data: its networks, hosts, VPN servers and names. A country is added by adding its line.

All addresses are from the benchmarking range 198.18.0.0/15 (RFC 2544, RFC 6890) and 2001:2::/48 (RFC 5180), except the
DNS server's, which is the one NordVPN has inside its tunnels.
"""

from dataclasses import dataclass

from health.model import Protocol

LABEL = "io.vpnexit.lab"
RANGE = "198.18.0.0/15"

UPLINK = "vxlab-uplink"
UPLINK_V4 = "198.18.10.0/24"
UPLINK_V4_GATEWAY = "198.18.10.1"
UPLINK_V4_DYNAMIC = "198.18.10.128/25"
UPLINK_V6 = "2001:2:0:10::/64"
UPLINK_V6_GATEWAY = "2001:2:0:10::1"

WAN = "vxlab-wan"
WAN_V4 = "198.19.10.0/24"
WAN_V4_GATEWAY = "198.19.10.1"

WHOAMI = "198.19.10.80"
WHOAMI_NAME = "whoami.lab.vpnexit.example"
WHERE_NAME = "where.lab.vpnexit.example"
# Names of this zone mean one address first and another one later (`inside/rebinding.py`).
REBINDING_ZONE = "rebind.lab.vpnexit.example"
API = "198.19.10.90"
# Two hosts, so that one of them may be stopped.
PROBE_TARGETS = (f"{WHOAMI}:80", f"{WHOAMI}:443", f"{API}:80")
TUNNEL_DNS = ("103.86.96.100", "103.86.99.100")

PORTS = {Protocol.WIREGUARD: 51820, Protocol.OPENVPN_UDP: 1194, Protocol.OPENVPN_TCP: 443}
TECHNOLOGY = {
    Protocol.WIREGUARD: "wireguard_udp",
    Protocol.OPENVPN_UDP: "openvpn_udp",
    Protocol.OPENVPN_TCP: "openvpn_tcp",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A country of the lab: how many exits it gets, over what, and what `where` resolves to there.

    `number` is NordVPN's id of the country; `city_number` that of the city.
    """

    country: str
    name: str
    number: int
    city: str
    city_number: int
    latitude: float
    longitude: float
    protocol: Protocol
    nodes: int
    where: str


@dataclass(frozen=True, slots=True)
class VpnServer:
    """One VPN server: `entry` is its address on the uplink, `egress` the one its clients are seen under."""

    name: str
    country: str
    entry: str
    egress: str
    gateway: str
    load: int

    @property
    def hostname(self) -> str:
        return f"{self.name}.lab.vpnexit.example"

    @property
    def container(self) -> str:
        return f"vxlab-{self.name}"

    @property
    def mac(self) -> str:
        """The hardware address on the uplink, fixed so that the leak counters know it."""
        return "02:42:" + ":".join(f"{int(part):02x}" for part in self.entry.split("."))

    @property
    def protocol(self) -> Protocol:
        return PLACES[self.country].protocol

    @property
    def port(self) -> int:
        return PORTS[self.protocol]


PLACES = {
    place.country: place
    for place in (
        Place(
            country="jp",
            name="Japan",
            number=108,
            city="Tokyo",
            city_number=4633349,
            latitude=35.685,
            longitude=139.751389,
            protocol=Protocol.WIREGUARD,
            nodes=2,
            where="198.19.10.181",
        ),
        Place(
            country="us",
            name="United States",
            number=228,
            city="New York",
            city_number=8971718,
            latitude=40.7144,
            longitude=-74.006,
            protocol=Protocol.OPENVPN_UDP,
            nodes=1,
            where="198.19.10.182",
        ),
        Place(
            country="gb",
            name="United Kingdom",
            number=227,
            city="London",
            city_number=2989907,
            latitude=51.514125,
            longitude=-0.093689,
            protocol=Protocol.OPENVPN_TCP,
            nodes=1,
            where="198.19.10.183",
        ),
    )
}

# One more in each country than its pool wishes: a node is replaced before it is stopped.
# NordVPN's host names say `uk` where ISO 3166-1 says GB.
SERVERS = (
    VpnServer("jp1", "jp", "198.18.10.11", "198.19.10.11", "10.5.0.1/16", 12),
    VpnServer("jp2", "jp", "198.18.10.12", "198.19.10.12", "10.5.0.1/16", 18),
    VpnServer("jp3", "jp", "198.18.10.13", "198.19.10.13", "10.5.0.1/16", 25),
    VpnServer("us1", "us", "198.18.10.21", "198.19.10.21", "10.8.1.1/24", 21),
    VpnServer("us2", "us", "198.18.10.22", "198.19.10.22", "10.8.1.1/24", 33),
    VpnServer("uk1", "gb", "198.18.10.31", "198.19.10.31", "10.8.2.1/24", 15),
    VpnServer("uk2", "gb", "198.18.10.32", "198.19.10.32", "10.8.2.1/24", 30),
)


def answers(country: str) -> dict[str, list[str]]:
    """What the DNS server inside a tunnel of `country` answers; any other name does not exist.

    Besides the origin there are names for the address check: private, mixed, and IPv6 where no tunnel carries it.
    """
    return {
        WHOAMI_NAME: [WHOAMI],
        WHERE_NAME: [PLACES[country].where],
        "private.lab.vpnexit.example": ["10.99.0.1"],
        "mapped.lab.vpnexit.example": ["::ffff:127.0.0.1"],
        "mixed.lab.vpnexit.example": [WHOAMI, "127.0.0.1"],
        "dual.lab.vpnexit.example": [WHOAMI, "2001:2:0:10::80"],
        "six.lab.vpnexit.example": ["2001:2:0:10::80"],
    }


def egresses(country: str) -> list[str]:
    """The addresses under which the exits of `country` are seen."""
    return [server.egress for server in SERVERS if server.country == country]

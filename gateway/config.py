"""Settings of the gateway."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.wire.base import WireError, parse_host
from health import upstream
from health.model import Country
from health.upstream import UpstreamUrl

Network = IPv4Network | IPv6Network

_USER = re.compile(r"[A-Za-z0-9_.]{1,64}")  # no dash: the want that is appended begins with one


def _listen_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not an address to listen on: write host:port, for example 127.0.0.1:3128")
    return text


def _domain(text: str) -> str:
    try:
        host, address = parse_host(text)
    except WireError as error:
        raise ValueError(error.detail) from None
    if address is not None:
        raise ValueError(f"{text!r} is an address: a domain is a name, for example example.org")
    return host


Domain = Annotated[str, AfterValidator(_domain)]
ListenAddress = Annotated[str, AfterValidator(_listen_address)]


def _reachable(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{address} is no address that a client could send to: give this machine's public one")
    return address


def _port_range(text: str) -> str:
    first, dash, last = text.partition("-")
    if not dash or not first.isdigit() or not last.isdigit() or not 1 <= int(first) <= int(last) <= 65535:
        raise ValueError(f"{text!r} is no range of ports: write first-last, for example 40000-40999")
    return text


AdvertisedAddress = Annotated[IPv4Address | IPv6Address, AfterValidator(_reachable)]
PortRange = Annotated[str, AfterValidator(_port_range)]


def _with_user(url: str) -> str:
    if not _USER.fullmatch(upstream.parse(url).user or ""):
        raise ValueError("another machine's gateway is asked as one of its users: write socks5://user@host:1080")
    return url


MachineGateway = Annotated[UpstreamUrl, AfterValidator(_with_user)]


class GatewaySettings(BaseModel):
    """One gateway: its supervisor and workers. Times are seconds."""

    model_config = ConfigDict(extra="forbid")

    listen: tuple[ListenAddress, ...] = ("127.0.0.1:3128", "127.0.0.1:1080")
    metrics_listen: ListenAddress = "127.0.0.1:9100"
    workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="processes that share the listeners; None: as many as there are cores for us"
    )
    max_connections: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="clients at once and worker; never more than its descriptors allow, which is the default",
    )
    log_connections: bool = Field(default=True, description="one line per connection, at log level info and below")
    require_auth: bool = Field(
        default=False, description="ask for a user and password on loopback too; beyond loopback it is always asked"
    )
    allow_targets: tuple[Network, ...] = ()
    trusted_proxies: tuple[Network, ...] = Field(
        default=(), description="peers that must send a PROXY protocol header; nobody else may"
    )
    udp_advertise: tuple[AdvertisedAddress, ...] = Field(
        default=(),
        description="where clients beyond loopback send SOCKS5 datagrams to: this machine's own address or the one that"
        " is forwarded to it; of several in one family the one a client dialled, else the first; without it UDP"
        " ASSOCIATE is refused to them",
    )
    udp_ports: PortRange | None = Field(
        default=None, description="the ports for those datagrams, for a firewall: first-last; any free port without it"
    )
    udp_idle_timeout: Annotated[float, Field(gt=0, le=86400)] = 60.0
    machines: dict[str, MachineGateway] = Field(
        default={},
        description="the gateways of other machines by machine name, for the nodes there: socks5://user@10.0.0.2:1080",
    )
    upstream_passwords: Path | None = Field(
        default=None,
        description="directory of the passwords for other machines' gateways and for upstream nodes. The file is named"
        " as user, host and port stand in the address (user@10.0.0.2:1080), its first line is the password; None:"
        " upstreams in the state directory",
    )
    allow_clients: tuple[Network, ...] = Field(
        default=(), description="the only networks clients may come from; empty: any"
    )
    domain: Domain | None = Field(
        default=None, description="clients that dial proxy-jp.DOMAIN over TLS want Japan; needs HAProxy's authority TLV"
    )
    country_addresses: dict[Network, Country] = Field(
        default={}, description="own addresses of countries: network to country, the longest prefix counts"
    )
    default_country: Country | None = None
    handshake_timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    dial_timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    idle_timeout: Annotated[float, Field(gt=0, le=7 * 86400)] = Field(
        default=3600.0, description="a tunnel, or a plain HTTP exchange, in which nothing passed for so long is closed"
    )
    max_lifetime: Annotated[float, Field(gt=0, le=30 * 86400)] = Field(
        default=86400.0, description="a tunnel, or a plain HTTP exchange, is closed after so long, whatever passes"
    )
    drain_timeout: Annotated[float, Field(ge=0, le=3600)] = 30.0

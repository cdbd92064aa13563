"""Settings of control and of the NordVPN-shaped provider. Values only: files are read where they are used."""

import ipaddress
import re
import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, IPvAnyAddress, TypeAdapter, model_validator

from health.agent.nodefile import MAX_TARGETS, dns_server, target
from health.model import Country
from health.upstream import UpstreamUrl

INSIGHTS_PATH = "/v1/helpers/ips/insights"
_LISTEN = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+):(?P<port>[0-9]{1,5})")
_HTTP_URL = TypeAdapter(HttpUrl)


def _http_url(text: str) -> str:
    _HTTP_URL.validate_python(text)
    return text.rstrip("/")


def _listen(text: str) -> str:
    split_listen(text)
    return text


def split_listen(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8080`, `[::1]:8080` or `name:8080` (port 0: any free one).

    Raises:
        ValueError: anything else.
    """
    found = _LISTEN.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise ValueError(f"{text!r} is not an address and port such as 127.0.0.1:8080")
    return found["host"].strip("[]"), int(found["port"])


def join_listen(host: str, port: int) -> str:
    """What `split_listen` splits."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


HttpAddress = Annotated[str, AfterValidator(_http_url)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class UpstreamNode(BaseModel):
    """A proxy that leaves in `country`. Its password stands where gateways read it (gateway.upstream_passwords)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    country: Country
    url: UpstreamUrl
    """socks5://user@host:1080 or http://user@host:3128, without a password."""
    city: str = ""


class ControlSettings(BaseModel):
    """The API and the reconciler. Times are in seconds."""

    model_config = ConfigDict(extra="forbid")

    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:8080"
    metrics_open: bool = False
    """Whether /metrics takes no log-in: whoever reaches `listen` may then read how many nodes there are."""
    fleet: Name = "vpnexit"
    machine: Name = Field(default_factory=lambda: re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:63] or "local")

    engine: Literal["docker", "none"] = "docker"
    docker_host: str = ""
    """Docker's address (`unix:///…`); empty: DOCKER_HOST, else /var/run/docker.sock."""
    docker_timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    image: str = "vpnexit-exit"
    network: Name = "vpnexit-uplink"
    """The Docker network by which exits reach their VPN servers."""

    provider: Name = "nordvpn"
    """Provider of a pool that names none."""
    direct_nodes: tuple[Country, ...] = ()
    """Countries as which this machine's own address serves. Traffic leaves from this machine."""

    upstreams: tuple[UpstreamNode, ...] = ()
    """Somebody's proxies that serve as nodes, as they are: where they lead is not verified."""

    insights_url: HttpAddress | None = None
    """Who tells a caller its address and country; None: the provider's."""
    probe_name: str = ""
    """A name that every tunnel's DNS knows; empty: the host of `insights_url`."""
    probe_targets: Annotated[tuple[Annotated[str, AfterValidator(target)], ...], Field(max_length=MAX_TARGETS)] = (
        "1.1.1.1:443",
        "8.8.8.8:443",
        "9.9.9.9:443",
    )
    """Numeric addresses and ports that every exit connects to every 2 s, to see that it still reaches the outside.

    Hosts of different people, so that they do not fail together: by default three public resolvers, which are near to
    every exit and answer on this port whatever an exit's network does to port 53. Empty: name servers alone are asked.
    """
    own_addresses: tuple[IPvAnyAddress, ...] = ()
    """This machine's own public addresses; empty: asked of `insights_url`, and no node is admitted while unknown."""

    start_timeout: Annotated[float, Field(ge=1, le=600)] = 30.0
    verify_interval: Annotated[float, Field(ge=1, le=3600)] = 60.0
    tunnel_grace: Annotated[float, Field(ge=1, le=600)] = 20.0
    """How long a tunnel may be down before its node is replaced."""
    drain_deadline: Annotated[float, Field(ge=0, le=86400)] = 30.0
    keep_ended: Annotated[float, Field(ge=0, le=86400)] = 600.0
    """How long records of ended nodes are kept."""
    tick: Annotated[float, Field(ge=0.05, le=10)] = 1.0
    lease: Annotated[float, Field(ge=0.5, le=60)] = 5.0
    """How long the leader's lease lasts without being renewed: so long a killed leader's work lies idle."""
    gateways: tuple[Annotated[str, AfterValidator(_listen)], ...] = ("127.0.0.1:9100",)
    """Where the metrics of all gateways are: pools with `target_connections` follow what they carry together, and a
    node that drains ends once none of them has a connection through it."""
    certificates: tuple[Path, ...] = ()
    """Certificates (PEM files, for example the edge's) whose end `/metrics` shows."""
    load_interval: Annotated[float, Field(ge=0.1, le=60)] = 5.0

    @model_validator(mode="after")
    def _upstreams_differ(self) -> Self:
        if len(set(self.upstreams)) != len(self.upstreams):
            raise ValueError("upstreams: the same one is there twice")
        return self


class NordVpnAccount(BaseModel):
    """One subscription: sessions at once are counted per account."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    token_file: Path
    slots: Annotated[int, Field(ge=1, le=100)] = 10


class NordVpnSettings(BaseModel):
    """NordVPN's HTTP API, or one that speaks like it (the lab's)."""

    model_config = ConfigDict(extra="forbid")

    api_url: HttpAddress = "https://api.nordvpn.com"
    accounts: tuple[NordVpnAccount, ...] = ()
    ca_file: Path | None = None
    """The authority of the OpenVPN servers (PEM); needed for the OpenVPN protocols."""
    tls_auth_file: Path | None = None
    """OpenVPN's static tls-auth key; None: the servers use none."""
    dns: tuple[IPvAnyAddress, ...] = (
        ipaddress.IPv4Address("103.86.96.100"),
        ipaddress.IPv4Address("103.86.99.100"),
    )
    """DNS servers inside the tunnel."""
    timeout: Annotated[float, Field(gt=0, le=60)] = 5.0

    @model_validator(mode="after")
    def _accounts_differ(self) -> Self:
        names = [account.name for account in self.accounts]
        if len(set(names)) != len(names):
            raise ValueError("two accounts have the same name")
        if not self.dns:
            raise ValueError("dns: at least one server inside the tunnel is needed")
        return self


class CustomSettings(BaseModel):
    """A folder of VPN files as provider `custom`. Times are in seconds."""

    model_config = ConfigDict(extra="forbid")

    directory: Path | None = None
    """Where the files are (README, "With a folder of VPN files"); None: there is no such provider."""
    slots: Annotated[int, Field(ge=1, le=100)] = 10
    """Sessions at once that one user and password allow."""
    dns: tuple[IPv4Address, ...] = ()
    """DNS servers inside the tunnels; empty: those that each file names, or the server pushes."""
    timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long a server's name is looked up."""

    @model_validator(mode="after")
    def _dns_behind_tunnels(self) -> Self:
        for address in self.dns:
            dns_server(str(address))
        return self


def insights_url(control: ControlSettings, nordvpn: NordVpnSettings) -> str:
    """The address asked for exit addresses."""
    return control.insights_url or nordvpn.api_url + INSIGHTS_PATH


def probe_name(control: ControlSettings, nordvpn: NordVpnSettings) -> str:
    """The name looked up through every tunnel.

    Raises:
        ValueError: the insights address is a number and no name is configured.
    """
    if control.probe_name:
        return control.probe_name
    host = urlsplit(insights_url(control, nordvpn)).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    raise ValueError("control.probe_name: needed where the insights address is a number")

"""Settings of the gateway."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from health.model import Country

Network = IPv4Network | IPv6Network


def _listen_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not an address to listen on: write host:port, for example 127.0.0.1:3128")
    return text


ListenAddress = Annotated[str, AfterValidator(_listen_address)]


class GatewaySettings(BaseModel):
    """One gateway worker. Times are seconds."""

    model_config = ConfigDict(extra="forbid")

    listen: tuple[ListenAddress, ...] = ("127.0.0.1:3128", "127.0.0.1:1080")
    metrics_listen: ListenAddress = "127.0.0.1:9100"
    require_auth: bool = Field(
        default=False, description="ask for a user and password on loopback too; beyond loopback it is always asked"
    )
    allow_targets: tuple[Network, ...] = ()
    trusted_proxies: tuple[Network, ...] = Field(
        default=(), description="peers that must send a PROXY protocol header; nobody else may"
    )
    default_country: Country | None = None
    handshake_timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    dial_timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    drain_timeout: Annotated[float, Field(ge=0, le=3600)] = 30.0

"""The routes of an exit container: the VPN endpoint by the uplink, everything else into the tunnel.

The kill switch alone decides what may leave; the routes see to it that what may not is refused at once. A `reject` of a
dial takes effect only if the kernel can lock the socket at that moment (2-3 % of dials wait a second for the first
retransmission), a route does always.
"""

import json
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from health.agent.killswitch import DOCKER_RESOLVER

_RULE_PRIORITY = 100


class NetworkError(Exception):
    """The network of the container is not as needed, or could not be set up."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """The way to the VPN endpoint: the device, our address there, its MTU, and the router unless it is on the link."""

    device: str
    source: str
    mtu: int
    gateway: str | None


def find_uplink(endpoint: IPv4Address) -> Uplink:
    """How this container reaches the endpoint now. Raises NetworkError."""
    uplink = parse_route(_ip("-j", "route", "get", str(endpoint)))
    link = json.loads(_ip("-j", "link", "show", "dev", uplink.device))
    return Uplink(uplink.device, uplink.source, int(link[0]["mtu"]), uplink.gateway)


def parse_route(text: str) -> Uplink:
    """The answer of `ip -j route get`. Raises NetworkError."""
    try:
        route = json.loads(text)[0]
        return Uplink(route["dev"], route["prefsrc"], int(route.get("mtu", 0)), route.get("gateway"))
    except (ValueError, KeyError, IndexError, TypeError):
        raise NetworkError("no route to the VPN endpoint") from None


def close_uplink(uplink: Uplink, endpoint: IPv4Address, agent_uid: int) -> str:
    """The `ip -batch` lines that leave one route by the uplink, and none to it for handed-over sockets."""
    via = f"via {uplink.gateway} " if uplink.gateway else ""
    onlink = " onlink" if uplink.gateway else ""
    return (
        "route flush table main\n"
        f"route add {endpoint}/32 {via}dev {uplink.device} src {uplink.source}{onlink}\n"
        f"rule add pref {_RULE_PRIORITY} uidrange {agent_uid}-{agent_uid} to {endpoint}/32 unreachable\n"
        f"route add unreachable {DOCKER_RESOLVER}/32 table local\n"
    )


def open_tunnel(device: str, address: IPv4Interface, mtu: int) -> str:
    """The `ip -batch` lines that bring the tunnel up and send everything into it."""
    return (
        f"address add {address.ip}/32 dev {device}\n"
        f"link set dev {device} mtu {mtu} up\n"
        f"route replace default dev {device}\n"
    )


def move_tunnel(device: str, old: IPv4Interface, new: IPv4Interface) -> str:
    """The `ip -batch` lines for a tunnel that came back with another address. The new one is added first: with its
    last address a device loses its routes."""
    return f"address add {new.ip}/32 dev {device}\naddress del {old.ip}/32 dev {device}\n"


def apply(lines: str) -> None:
    """Run `ip -batch` lines. Raises NetworkError at the first that fails."""
    _ip("-batch", "-", text=lines)


def forget_ipv6() -> None:
    """Drop the IPv6 routes of the uplink, so that a dial fails at once. Without IPv6 there is nothing to drop."""
    subprocess.run(["ip", "-6", "route", "flush", "table", "main"], capture_output=True, timeout=5, check=False)


def _ip(*arguments: str, text: str = "") -> str:
    try:
        done = subprocess.run(["ip", *arguments], input=text, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"ip: {error}") from None
    if done.returncode:
        raise NetworkError(f"ip: {done.stderr.strip()[:300]}")
    return done.stdout

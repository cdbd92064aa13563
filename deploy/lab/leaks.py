"""Leak counters on the exits' uplink: what leaves an exit that is not its tunnel, IPv4 and IPv6 apart.

They sit on the host, where no exit can reach them, at the first place that sees a frame from a bridge port: the
`bridge` family where the kernel can name the bridge there, else `inet` with br_netfilter, which shows the same frames.
Servers are told from exits by their hardware addresses, so every other sender on the uplink counts.

Counted apart is what a kernel sends by itself between Docker's bringing a new container's interface up and the first
thing that PID 1 does; it carries nothing of any connection. `setup_v6`: neighbour discovery, solicited routers and MLD
(RFC 4861, RFC 3810), which stay on the link. `setup_v4`: "port unreachable" (RFC 792) to a VPN server that still sends
to an exit which had the same address before. ARP is no IP packet and not counted.
"""

import json
from dataclasses import dataclass
from typing import Any

from deploy.lab import hostnet, world
from deploy.lab.shell import LabError, run
from health.model import Protocol

TABLE = "vxlab_leaks"
COUNTERS = ("tunnel", "leak_v4", "leak_v6", "setup_v4", "setup_v6")
# Multicast listener query excluded: RFC 2710 and 3810 reports (131, 132, 143), RFC 4861 (133, 135, 136).
SETUP_TYPES = "131, 132, 133, 135, 136, 143"


@dataclass(frozen=True, slots=True)
class Counts:
    """Packets since the counters were set up. `tunnel` is what goes to a VPN server's endpoint."""

    tunnel: int
    leak_v4: int
    leak_v6: int
    setup_v4: int
    setup_v6: int

    @property
    def leaked(self) -> int:
        return self.leak_v4 + self.leak_v6

    def since(self, earlier: "Counts") -> "Counts":
        return Counts(*(getattr(self, name) - getattr(earlier, name) for name in COUNTERS))


@dataclass(frozen=True, slots=True)
class Flow:
    """Packets of one sender to one destination; `port` is 0 where the protocol has none."""

    source: str
    destination: str
    protocol: str
    port: int
    packets: int


def ruleset(family: str) -> str:
    """The nft table, for family `bridge` or `inet`; loading it sets all counters to zero."""
    where = f'meta ibrname "{world.UPLINK}"' if family == "bridge" else f'iifname "{world.UPLINK}"'
    counters = "\n".join(f"  counter {name} {{}}" for name in COUNTERS)
    macs = ", ".join(server.mac for server in world.SERVERS)
    entries = ", ".join(server.entry for server in world.SERVERS)
    endpoints = ", ".join(
        f"{server.entry} . {'tcp' if server.protocol is Protocol.OPENVPN_TCP else 'udp'} . {server.port}"
        for server in world.SERVERS
    )
    return f"""
table {family} {TABLE} {{}}
delete table {family} {TABLE}
table {family} {TABLE} {{
{counters}
  set servers {{ type ether_addr; elements = {{ {macs} }} }}
  set entries {{ type ipv4_addr; elements = {{ {entries} }} }}
  set endpoints {{ type ipv4_addr . inet_proto . inet_service; elements = {{ {endpoints} }} }}
  set flows {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; size 4096; flags dynamic; counter; }}
  chain uplink {{
    type filter hook prerouting priority -500;
    {where} ether saddr != @servers jump sent
  }}
  chain sent {{
    meta protocol ip meta l4proto {{ tcp, udp }} update @flows {{ ip saddr . ip daddr . meta l4proto . th dport }}
    meta protocol ip meta l4proto != {{ tcp, udp }} update @flows {{ ip saddr . ip daddr . meta l4proto . 0 }}
    meta protocol ip ip daddr . meta l4proto . th dport @endpoints counter name tunnel accept
    ip daddr @entries icmp type destination-unreachable counter name setup_v4 accept
    meta protocol ip counter name leak_v4 accept
    meta protocol ip6 icmpv6 type {{ {SETUP_TYPES} }} counter name setup_v6 accept
    meta protocol ip6 counter name leak_v6
  }}
}}
"""


def set_up() -> None:
    """Put the counters in place, all zero. Raises LabError."""
    remove()
    try:
        run(["nft", "-f", "-"], stdin=ruleset("bridge"))
    except LabError:
        run(["nft", "-f", "-"], stdin=ruleset("inet"))
        hostnet.show_bridged_packets()


def remove() -> None:
    for family in ("bridge", "inet"):
        run(["nft", "-f", "-"], stdin=f"table {family} {TABLE} {{}}\ndelete table {family} {TABLE}\n")


def in_place() -> bool:
    try:
        read()
    except LabError:
        return False
    return True


def read() -> Counts:
    """The counts now. Raises LabError where the counters are not in place."""
    found = {
        item["counter"]["name"]: item["counter"]["packets"]
        for item in _list("counters")
        if "counter" in item and item["counter"]["table"] == TABLE
    }
    if set(found) != set(COUNTERS):
        raise LabError("the leak counters are not in place: run make lab")
    return Counts(**found)


def flows() -> list[Flow]:
    """Who sent what to whom, IPv4; for telling an exit's own endpoint from another's."""
    return [
        _flow(element["elem"])
        for item in _list("ruleset")
        if item.get("set", {}).get("table") == TABLE and item["set"]["name"] == "flows"
        for element in item["set"].get("elem", [])
    ]


def _list(what: str) -> list[dict[str, Any]]:
    return list(json.loads(run(["nft", "--json", "list", what]))["nftables"])


def _flow(element: dict[str, Any]) -> Flow:
    source, destination, protocol, port = element["val"]["concat"]
    return Flow(str(source), str(destination), str(protocol), int(port), int(element["counter"]["packets"]))

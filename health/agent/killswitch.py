"""The kill switch: the nftables rules of an exit container, as text. Pure; `nft.py` loads and watches them.

What may leave: anything into the tunnel, loopback (but not Docker's resolver, which answers from the host's
namespace), and, to the VPN endpoint's address, protocol and port, packets of sockets that the VPN program's user made.
A socket handed over to the gateway was made by the agent's user, so that exemption is closed to it. Everything else is
refused at once, whatever the routes say: the rules go by the name of the outgoing device alone.

No rule goes by connection state, and nothing is tracked: an entry made before a rule changed would outlive it, and
tracked connections to one target exhaust the port range long before the sockets do.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal

TABLE = "vpnexit"
DOCKER_RESOLVER = "127.0.0.11"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The VPN server's entry: where alone the VPN program may send to."""

    address: IPv4Address
    port: int
    transport: Literal["udp", "tcp"]


def render(tunnel: str, endpoint: Endpoint, vpn_uid: int) -> str:
    """The ruleset for `nft -f`. Loading it replaces an earlier one in a single transaction.

    The tunnels carry IPv4 only, so no IPv6 leaves, neighbour discovery included. A refusal is ICMP "network
    administratively prohibited" (RFC 1812 section 5.2.7.1), which a dialling socket sees as ENETUNREACH: never as if
    the target had refused. Path-MTU messages of routers between here and the endpoint come in, or large packets
    would vanish without a trace.
    """
    to_endpoint = f"ip daddr {endpoint.address} {endpoint.transport} dport {endpoint.port}"
    from_endpoint = f"ip saddr {endpoint.address} {endpoint.transport} sport {endpoint.port}"
    return f"""\
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
\tchain untracked_in {{
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tnotrack
\t}}
\tchain untracked_out {{
\t\ttype filter hook output priority raw; policy accept;
\t\tnotrack
\t}}
\tchain input {{
\t\ttype filter hook input priority filter; policy drop;
\t\tiifname "lo" accept
\t\tmeta nfproto ipv6 drop
\t\tiifname "{tunnel}" accept
\t\t{from_endpoint} accept
\t\ticmp type destination-unreachable icmp code frag-needed accept
\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter; policy drop;
\t}}
\tchain output {{
\t\ttype filter hook output priority filter; policy drop;
\t\tip daddr {DOCKER_RESOLVER} goto refuse
\t\toifname "lo" accept
\t\tmeta nfproto ipv6 goto refuse
\t\toifname "{tunnel}" accept
\t\tmeta skuid {vpn_uid} {to_endpoint} accept
\t\tgoto refuse
\t}}
\tchain refuse {{
\t\tmeta l4proto icmpv6 drop
\t\tmeta nfproto ipv6 reject with icmpv6 type admin-prohibited
\t\treject with icmp type net-prohibited
\t}}
}}
"""

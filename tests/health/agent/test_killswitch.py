from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from health.agent.killswitch import Endpoint, render

UDP = Endpoint(IPv4Address("198.18.0.11"), 51820, "udp")
TCP = Endpoint(IPv4Address("198.18.0.31"), 443, "tcp")


def rules(text: str, chain: str) -> list[str]:
    body = text.split(f"chain {chain} {{\n")[1].split("}")[0]
    return [line.strip() for line in body.splitlines() if line.strip()]


def test_the_order_in_which_output_is_judged() -> None:
    assert rules(render("tun0", UDP, 61002), "output") == [
        "type filter hook output priority filter; policy drop;",
        "ip daddr 127.0.0.11 goto refuse",
        'oifname "lo" accept',
        "meta nfproto ipv6 goto refuse",
        'oifname "tun0" accept',
        "meta skuid 61002 ip daddr 198.18.0.11 udp dport 51820 accept",
        "goto refuse",
    ]


def test_the_endpoints_transport_and_port_are_the_only_ones() -> None:
    text = render("tun0", TCP, 61002)
    assert "meta skuid 61002 ip daddr 198.18.0.31 tcp dport 443 accept" in text
    assert "ip saddr 198.18.0.31 tcp sport 443 accept" in text
    assert "udp" not in text


@pytest.mark.parametrize("endpoint", [UDP, TCP])
def test_nothing_goes_by_connection_state_and_nothing_is_tracked(endpoint: Endpoint) -> None:
    text = render("tun0", endpoint, 61002)
    assert not {"ct", "state", "established", "related", "counter"} & set(text.replace(",", " ").split())
    assert text.count("notrack") == 2


def test_it_replaces_an_earlier_one_in_one_transaction() -> None:
    assert render("tun0", UDP, 61002).splitlines()[:2] == ["table inet vpnexit", "delete table inet vpnexit"]


def test_what_the_kernel_makes_of_it(inside: Callable[[str], str]) -> None:
    inside("only_the_vpn_user_reaches_the_endpoint")


def test_no_ipv6_leaves_not_even_neighbour_discovery(inside: Callable[[str], str]) -> None:
    inside("ipv6_does_not_leave")

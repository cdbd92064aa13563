from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from health.agent.routes import NetworkError, Uplink, close_uplink, parse_route


def test_a_route_on_the_link_and_one_by_a_router() -> None:
    assert parse_route('[{"dst":"198.18.0.11","dev":"eth0","prefsrc":"198.18.0.5","flags":[]}]') == Uplink(
        "eth0", "198.18.0.5", 0, None
    )
    shown = '[{"dst":"198.19.0.1","gateway":"198.18.0.1","dev":"eth0","prefsrc":"198.18.0.5"}]'
    assert parse_route(shown) == Uplink("eth0", "198.18.0.5", 0, "198.18.0.1")


@pytest.mark.parametrize("text", ["", "[]", "{}", "[{}]", '[{"dev":"eth0"}]', "null"])
def test_what_is_no_route(text: str) -> None:
    with pytest.raises(NetworkError, match="no route to the VPN endpoint"):
        parse_route(text)


def test_the_uplink_is_closed_but_for_the_endpoint() -> None:
    lines = close_uplink(Uplink("eth0", "198.18.0.5", 1500, None), IPv4Address("198.18.0.11"), 61001).splitlines()
    assert lines == [
        "route flush table main",
        "route add 198.18.0.11/32 dev eth0 src 198.18.0.5",
        "rule add pref 100 uidrange 61001-61001 to 198.18.0.11/32 unreachable",
        "route add unreachable 127.0.0.11/32 table local",
    ]


def test_what_the_kernel_makes_of_it(inside: Callable[[str], str]) -> None:
    inside("routes_leave_one_way_out")


def test_without_an_uplink_there_is_no_exit(inside: Callable[[str], str]) -> None:
    assert "ip:" in inside("no_way_to_the_endpoint")

"""Judging addresses only: nothing here opens a socket."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.targets import _EMBEDDING, _IPV4, _IPV6, check
from gateway.wire.base import WireError
from health.reasons import Reason

LAB = (ip_network("198.18.0.0/15"),)


def refused(text: str, port: int = 443, *allow: str) -> bool:
    try:
        check(ip_address(text), port, [ip_network(network) for network in allow])
    except WireError as error:
        return error.reason is Reason.TARGET_FORBIDDEN
    return False


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1",
             "198.17.255.255", "198.20.0.0", "223.255.255.255", "2600::1", "2a00:1450::1", "2001:200::1", "2003::1"]
)  # fmt: skip
def test_public_addresses_pass(text: str) -> None:
    assert not refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
        "169.254.169.254", "172.16.0.1", "172.17.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1",
        "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
        "240.0.0.1", "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:7f00:1", "64:ff9b::7f00:1",
        "64:ff9b::808:808", "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:0:1:2::3", "2001:2::1", "2001:10::1",
        "2001:20::1", "2001:db8::1", "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "4000::1", "5f00::1", "8000::1",
        "c000::1", "e000::1", "f000::1", "f800::1", "fc00::1", "fd00:ec2::254", "fd7a:115c:a1e0::1", "fe00::1",
        "fe80::1", "fe80::1%eth0", "2600::1%eth0", "febf::1", "fec0::1", "feff::1", "ff02::1", "ff0e::1",
    ],
)  # fmt: skip
def test_special_addresses_are_refused(text: str) -> None:
    assert refused(text)


def test_an_allowed_network_opens_its_addresses_and_no_others() -> None:
    check(ip_address("198.18.3.4"), 443, LAB)
    with pytest.raises(WireError):
        check(ip_address("10.0.0.1"), 443, LAB)
    assert not refused("::1", 443, "::1/128")
    assert not refused("fd00::1", 443, "fd00::/8")


@pytest.mark.parametrize(
    "text", ["::ffff:198.18.0.1", "64:ff9b::c612:1", "2002:c612:1::1", "2001::1", "::1", "2600::1%e"]
)
def test_a_form_with_an_address_inside_is_not_opened_by_a_wide_network(text: str) -> None:
    assert refused(text, 443, "0.0.0.0/0", "::/0", "2000::/3", "198.18.0.0/15")


def test_a_form_with_an_address_inside_is_opened_by_a_network_of_that_form() -> None:
    assert not refused("64:ff9b::c612:1", 443, "64:ff9b::/96")
    assert not refused("2002:c612:1::1", 443, "2002:c612::/32")
    assert refused("2002:c612:1::1", 443, "64:ff9b::/96")


@pytest.mark.parametrize("port", [0, -1, 25, 65536])
def test_ports_that_are_closed(port: int) -> None:
    assert refused("1.1.1.1", port)
    assert not refused("1.1.1.1", 26)


def test_port_25_is_open_where_the_network_is() -> None:
    check(ip_address("198.18.3.4"), 25, LAB)
    assert not refused("1.1.1.1", 25, "1.1.1.0/24")
    assert refused("1.1.1.1", 25, "198.18.0.0/15")


@pytest.mark.parametrize("table", [_IPV4, _IPV6, _EMBEDDING])
def test_the_ranges_of_a_table_do_not_overlap(table: dict[str, str]) -> None:
    networks = sorted((ip_network(text) for text in table), key=lambda network: int(network.network_address))
    for before, after in pairwise(networks):
        assert int(before.broadcast_address) < int(after.network_address), (before, after)


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_every_ipv4_address_that_is_not_global_is_refused(address: IPv4Address) -> None:
    if not address.is_global or address.is_multicast:
        assert refused(str(address))


@settings(deadline=None)
@given(st.ip_addresses(v=6))
def test_every_ipv6_address_outside_global_unicast_is_refused(address: IPv6Address) -> None:
    if address not in IPv6Network("2000::/3"):
        assert refused(str(address))


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_every_ipv4_address_inside_an_ipv6_form_is_refused(inner: IPv4Address) -> None:
    for form in (1 << 32 - 1, 0xFFFF << 32, 0x64FF9B << 96, 0x64FF9B0001 << 80):
        assert refused(str(IPv6Address(form & ~0xFFFFFFFF | int(inner))))
    assert refused(str(IPv6Address((0x2002 << 112) | (int(inner) << 80))))

"""Hosts and ports of VPN files."""

import pytest

from control.providers.remotes import Remote, host_of, port_of


def test_names_and_addresses() -> None:
    assert host_of("VPN-1.Example.") == "vpn-1.example"
    assert host_of("198.18.0.1") == "198.18.0.1"
    assert Remote("198.18.0.1", 1, "udp").is_address
    assert not Remote("vpn.example", 1, "udp").is_address


@pytest.mark.parametrize(
    "host", ["", "127.0.0.1", "0.0.0.0", "1.2.3", "300.1.1.1", "a b", "a;b", "vpn.exämple", "localhost", "x.localhost",
             "::1", "[::1]", "-x.example", "a..b", "x" * 64]
)  # fmt: skip
def test_what_is_neither_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"xpected|no address|IPv4|not permitted"):
        host_of(host)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "", "1 2", "0x10", "123456", "१२"])
def test_ports_are_numbers(port: str) -> None:
    with pytest.raises(ValueError, match="a port from 1 to 65535"):
        port_of(port)
    assert port_of("65535") == 65535

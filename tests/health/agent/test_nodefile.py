import base64
import json
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from health.agent import nodefile
from health.agent.nodefile import ConfigError

KEY = base64.b64encode(bytes(range(32))).decode()
WIREGUARD: dict[str, Any] = {
    "schema": 1,
    "node": "jp3f9a1c",
    "country": "jp",
    "protocol": "wireguard",
    "endpoint": {"address": "198.18.0.11", "port": 51820, "transport": "udp"},
    "dns": ["103.86.96.100"],
    "probe_name": "probe.test",
    "address": "10.5.0.2/32",
    "server_public_key": KEY,
    "targets": ["9.9.9.9:443", "9.9.9.9:0443", "198.18.0.80:80"],
    "insights_url": "https://api.example.com/v1/helpers/ips/insights",
    "added_later": True,
}
OPENVPN = {
    **WIREGUARD,
    "protocol": "openvpn_tcp",
    "endpoint": {"address": "198.18.0.31", "port": 443, "transport": "tcp"},
    "dns": [],
}


def test_a_wireguard_node() -> None:
    node = nodefile.parse(json.dumps(WIREGUARD))
    assert (node.node, node.country, node.protocol, node.dns) == ("jp3f9a1c", "jp", "wireguard", ("103.86.96.100",))
    assert (node.endpoint.address, node.endpoint.port) == (IPv4Address("198.18.0.11"), 51820)
    assert (node.address, node.server_public_key) == (IPv4Interface("10.5.0.2/32"), bytes(range(32)))
    assert node.targets == ("9.9.9.9:443", "198.18.0.80:80")
    assert node.insights_url == "https://api.example.com/v1/helpers/ips/insights"


def test_targets_and_insights_may_be_missing() -> None:
    given = {name: value for name, value in WIREGUARD.items() if name not in ("targets", "insights_url")}
    node = nodefile.parse(json.dumps(given))
    assert (node.targets, node.insights_url) == ((), "")


def test_an_openvpn_node_needs_neither_address_nor_key() -> None:
    given = {name: value for name, value in OPENVPN.items() if name not in ("address", "server_public_key")}
    node = nodefile.parse(json.dumps(given))
    assert (node.endpoint.transport, node.address, node.server_public_key, node.dns) == ("tcp", None, b"", ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 1 expected"),
        ({"node": None}, "node: a text"),
        ({"protocol": "pptp"}, "protocol: one of wireguard, openvpn_udp, openvpn_tcp expected"),
        ({"protocol": "openvpn_tcp"}, "openvpn_tcp does not go over udp"),
        ({"endpoint": []}, "endpoint: an object expected"),
        ({"endpoint": {"address": "vpn.test", "port": 1, "transport": "udp"}}, "address: "),
        ({"endpoint": {"address": "2001:2::1", "port": 1, "transport": "udp"}}, "address: "),
        ({"endpoint": {"address": "198.18.0.11", "port": 0, "transport": "udp"}}, "port: a port from 1 to 65535"),
        ({"endpoint": {"address": "198.18.0.11", "port": True, "transport": "udp"}}, "port: a port from 1 to 65535"),
        ({"endpoint": {"address": "198.18.0.11", "port": 1, "transport": "udp }"}}, "transport: one of udp, tcp"),
        ({"dns": "103.86.96.100"}, "dns: a list"),
        ({"targets": "9.9.9.9:443"}, "targets: a list of at most 8 expected"),
        ({"targets": [f"198.18.0.{number}:1" for number in range(9)]}, "targets: a list of at most 8 expected"),
        ({"targets": ["dns.example:443"]}, "targets: "),
        ({"targets": ["9.9.9.9"]}, "targets: '9.9.9.9' is not an address and port such as 9.9.9.9:443"),
        ({"targets": ["9.9.9.9:\u0664"]}, " is not an address and port such as"),
        ({"targets": ["9.9.9.9:65536"]}, "targets: '9.9.9.9:65536' is not"),
        ({"targets": ["127.0.0.11:53"]}, "targets: 127.0.0.11 is not behind a tunnel"),
        ({"insights_url": "file:///etc/passwd"}, "insights_url: an http or https URL"),
        ({"dns": ["127.0.0.11"]}, "127.0.0.11 is no name server behind a tunnel"),
        ({"dns": ["dns.test"]}, "dns: "),
        ({"probe_name": "two words"}, "probe_name: a DNS name"),
        ({"address": "10.5.0.2/99"}, "address: "),
        ({"server_public_key": "c2hvcnQ="}, "server_public_key: not 32 bytes"),
        ({"server_public_key": "?"}, "server_public_key: not base64"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"^node\.json: ") as caught:
        nodefile.parse(json.dumps({**WIREGUARD, **change}))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name in WIREGUARD if name not in ("schema", "targets", "insights_url", "added_later")]
)
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"node\.json: {name} is missing"):
        nodefile.parse(json.dumps({key: value for key, value in WIREGUARD.items() if key != name}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1"])
def test_what_is_no_object(text: str) -> None:
    with pytest.raises(ConfigError):
        nodefile.parse(text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.json: "):
        nodefile.read(tmp_path / "node.json")

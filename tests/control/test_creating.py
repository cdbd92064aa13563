"""What node.json says. (Creates themselves: test_reconcile, test_leadership.)"""

import pytest

from control.creating import Probing, node_config
from control.providers import Material
from health.model import Node, NodeKind, NodeStatus, Protocol

NODE = Node(
    id="jp000001",
    country="jp",
    kind=NodeKind.VPN,
    machine="m",
    status=NodeStatus.REQUESTED,
    protocol=Protocol.WIREGUARD,
    endpoint="198.18.10.11:51820/udp",
)
PROBING = Probing("probe.example", ("198.18.0.80:443",), "http://198.18.0.90/insights")


def test_endpoint_dns_and_what_wireguard_needs() -> None:
    told = node_config(NODE, Material(("10.0.0.1",), (), "10.5.0.2/32", "key"), PROBING)
    assert told["endpoint"] == {"address": "198.18.10.11", "port": 51820, "transport": "udp"}
    assert (told["dns"], told["probe_name"], told["protocol"]) == (["10.0.0.1"], "probe.example", "wireguard")
    assert (told["address"], told["server_public_key"]) == ("10.5.0.2/32", "key")
    assert (told["targets"], told["insights_url"]) == (["198.18.0.80:443"], "http://198.18.0.90/insights")
    assert "address" not in node_config(NODE, Material(("10.0.0.1",), ()), PROBING)


def test_a_record_without_an_endpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="endpoint"):
        node_config(NODE.model_copy(update={"endpoint": ""}), Material((), ()), PROBING)

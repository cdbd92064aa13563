"""What leaves by this machine must not come back to it."""

from ipaddress import ip_network

import pytest

from gateway.ourselves import Ourselves
from health.reasons import Reason

LISTEN = ("0.0.0.0:3128", "[::1]:1080")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"])
def test_this_machine_is_refused(address: str) -> None:
    refused = Ourselves(LISTEN).verdict(address, 80)
    assert refused is not None
    assert refused.reason is Reason.TARGET_FORBIDDEN


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_others_are_not(address: str) -> None:
    assert Ourselves(LISTEN).verdict(address, 3128) is None


def test_what_the_operator_opened_is_not_but_for_the_gateway_itself() -> None:
    ourselves = Ourselves(LISTEN, [ip_network("127.0.0.0/8")])
    assert ourselves.verdict("127.0.0.1", 80) is None
    for port in (3128, 1080):
        refused = ourselves.verdict("127.0.0.1", port)
        assert refused is not None
        assert "gateway itself" in refused.detail

"""The table of reasons: complete, and each row in the terms of its RFC."""

import pytest

from health.reasons import WIRE, Fault, Reason

# RFC 9209 section 2.3
PROXY_STATUS = {
    "dns_timeout",
    "dns_error",
    "destination_unavailable",
    "destination_ip_prohibited",
    "destination_ip_unroutable",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "connection_read_timeout",
    "connection_limit_reached",
    "http_request_error",
    "http_request_denied",
    "http_protocol_error",
    "proxy_loop_detected",
    "proxy_internal_response",
    "proxy_internal_error",
}


def test_every_reason_has_a_row() -> None:
    assert set(WIRE) == set(Reason)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OK])
def test_rows_speak_their_protocols(reason: Reason) -> None:
    wire = WIRE[reason]
    assert wire.proxy_status in PROXY_STATUS
    assert 0x01 <= wire.socks5 <= 0x08  # RFC 1928 section 6
    assert 400 <= wire.http <= 504
    assert wire.text
    assert wire.text == wire.text.strip().rstrip(".")


@pytest.mark.parametrize("reason", list(Reason))
def test_the_status_says_whose_fault_it_was(reason: Reason) -> None:
    wire = WIRE[reason]
    if wire.fault is Fault.NO_NODE:
        assert wire.http == 503
    if wire.fault in (Fault.NODE, Fault.TARGET):
        assert wire.http in (500, 502, 504)
    if 400 <= wire.http < 500:
        assert wire.fault is Fault.CLIENT


@pytest.mark.parametrize(
    ("reason", "socks5"),
    [
        (Reason.OK, 0x00),
        (Reason.REFUSED, 0x05),
        (Reason.HOST_UNREACHABLE, 0x04),
        (Reason.NETWORK_UNREACHABLE, 0x03),
        (Reason.TARGET_FORBIDDEN, 0x02),
        (Reason.NAME_NOT_FOUND, 0x04),
        (Reason.TARGET_TIMEOUT, 0x06),
        (Reason.COMMAND_UNSUPPORTED, 0x07),
        (Reason.ADDRESS_UNSUPPORTED, 0x08),
        (Reason.NO_NODE, 0x01),
    ],
)
def test_socks_replies(reason: Reason, socks5: int) -> None:
    assert WIRE[reason].socks5 == socks5

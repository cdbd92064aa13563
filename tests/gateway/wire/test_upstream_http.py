"""Asking an HTTP upstream: any split of its answer, whose fault a refusal is, nothing taken that is the tunnel's."""

from base64 import b64decode
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.base import Target, WireError
from gateway.wire.http_connect import connect_target, credentials
from gateway.wire.http_head import parse_head
from gateway.wire.http_reply import connect_response, error_response
from gateway.wire.upstream_http import MAX_HEAD, HttpClient
from health.reasons import WIRE, Fault, Reason

NAME = Target("example.org", 443)
LOGIN = (b"alice-country-jp", b"pass:word")
OK = b"HTTP/1.1 200 Connection established\r\nX-Exit-Node: jp000001\r\n\r\n"


def converse(client: HttpClient, incoming: bytes, sizes: list[int] | None = None) -> bytes:
    """Feed `incoming` in pieces as the shell does; returns what was left in the socket."""
    cuts = iter(sizes or [])
    while incoming and not client.connected:
        piece = incoming[: next(cuts, len(incoming))]
        count = client.belongs(piece)
        assert 0 < count <= len(piece)
        assert client.receive(piece[:count]) == b""
        incoming = incoming[count:]
    return incoming


def refusal(incoming: bytes) -> WireError:
    with pytest.raises(WireError) as refused:
        converse(HttpClient(NAME, None), incoming)
    return refused.value


def test_our_own_gateway_understands_the_request() -> None:
    head = parse_head(HttpClient(NAME, LOGIN).opening)
    assert head is not None
    assert connect_target(head) == NAME
    assert credentials(head) == ("alice-country-jp", "pass:word")


def test_the_request_to_the_letter() -> None:
    target = Target("2001:db8::1", 80, ip_address("2001:db8::1"))
    assert HttpClient(target, None).opening == b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n"
    _, _, field = HttpClient(NAME, LOGIN).opening.partition(b"Proxy-Authorization: Basic ")
    assert b64decode(field.strip()) == b"alice-country-jp:pass:word"


@pytest.mark.parametrize(
    "head",
    [
        OK,
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",  # means nothing here: RFC 9110 section 9.3.6
        connect_response("jp3f9a1c", "jp", "4f00"),
    ],
)
@given(st.lists(st.integers(1, 60)))
def test_any_split_connects_and_leaves_the_tunnel_alone(head: bytes, sizes: list[int]) -> None:
    client = HttpClient(NAME, None)
    assert converse(client, head + b"220 early\r\n\r\n", sizes) == b"220 early\r\n\r\n"
    assert client.connected


@pytest.mark.parametrize(
    ("status", "field", "reason"),
    [
        (b"407 Proxy Authentication Required", b"", Reason.NODE_DIAL),
        (b"401 Unauthorized", b"", Reason.NODE_DIAL),
        (b"403 Forbidden", b"", Reason.NODE_DIAL),
        (b"429 Too Many Requests", b"", Reason.NODE_DIAL),
        (b"301 Moved", b"", Reason.NODE_DIAL),
        (b"500 Unable to connect", b"", Reason.NODE_DIAL),
        (b"503 Service Unavailable", b"", Reason.NODE_DIAL),
        (b"502 Bad Gateway", b"", Reason.HOST_UNREACHABLE),
        (b"504 Gateway Timeout", b"", Reason.TARGET_TIMEOUT),
        (b"502 Bad Gateway", b"p; error=connection_refused", Reason.REFUSED),
        (b"502 Bad Gateway", b"p; error=dns_error; rcode=NXDOMAIN", Reason.NAME_NOT_FOUND),
        (b"504 Gateway Timeout", b"p;error=dns_timeout", Reason.NAME_LOOKUP),
        (b"502 Bad Gateway", b"p; error=destination_ip_unroutable", Reason.HOST_UNREACHABLE),
        (b"504 Gateway Timeout", b"p; error=connection_timeout", Reason.TARGET_TIMEOUT),
        (b"403 Forbidden", b"p; error=destination_ip_prohibited", Reason.TARGET_FORBIDDEN),
        (b"403 Forbidden", b"p; error=http_request_denied", Reason.NODE_DIAL),
        (b"502 Bad Gateway", b"p; error=proxy_internal_error", Reason.NODE_DIAL),
        (b"503 Service Unavailable", b"p; error=destination_unavailable", Reason.NODE_DIAL),
        (b"503 Service Unavailable", b"a, p; error=connection_refused", Reason.REFUSED),
        (b"502 Bad Gateway", b'p; details="; error=dns_error"', Reason.HOST_UNREACHABLE),
        (b"502 Bad Gateway", b'p; details="\\"; error=x"; error=connection_refused', Reason.REFUSED),
    ],
)
def test_whose_fault_a_refusal_is(status: bytes, field: bytes, reason: Reason) -> None:
    line = b"Proxy-Status: " + field + b"\r\n" if field else b""
    error = refusal(b"HTTP/1.1 " + status + b"\r\n" + line + b"Content-Length: 2\r\n\r\nno")
    assert error.reason is reason
    assert error.detail == f"the upstream answered {status[:3].decode()}"


@pytest.mark.parametrize("reason", [reason for reason in Reason if WIRE[reason].fault is Fault.TARGET])
def test_what_another_gateway_of_ours_says_of_the_target_stays_the_targets(reason: Reason) -> None:
    told = refusal(error_response(reason, 'a "detail"; error=x')).reason
    if WIRE[reason].proxy_status in ("http_protocol_error", "connection_terminated"):
        return  # not said before the tunnel stands
    assert WIRE[told].fault is Fault.TARGET
    assert WIRE[told].proxy_status == WIRE[reason].proxy_status


@pytest.mark.parametrize("reason", [reason for reason in Reason if WIRE[reason].fault in (Fault.NODE, Fault.NO_NODE)])
def test_what_another_gateway_of_ours_says_of_its_nodes_stays_the_nodes(reason: Reason) -> None:
    assert refusal(error_response(reason)).reason is Reason.NODE_DIAL


@pytest.mark.parametrize(
    "incoming",
    [
        b"\x05\x00\r\n\r\n",
        b"\r\n\r\n",
        b"200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: y\n\n",
        b"HTTP/1.1 200 OK\r\nX: y\n\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    ],
)
def test_nonsense_is_the_nodes(incoming: bytes) -> None:
    error = refusal(incoming)
    assert (error.reason, error.detail) == (Reason.NODE_DIAL, "the upstream's answer to CONNECT is no HTTP")


PARTS = st.lists(
    st.sampled_from(
        [b"HTTP/1.1 ", b"200", b"502", b" ", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"a: b", b":", b"\x00", b"x"]
    ),
    max_size=30,
)


@given(st.one_of(st.binary(max_size=300), PARTS.map(b"".join)), st.lists(st.integers(1, 40), max_size=20))
def test_any_bytes_end_in_bounds(incoming: bytes, sizes: list[int]) -> None:
    client = HttpClient(NAME, LOGIN)
    refused, left = None, b""
    try:
        left = converse(client, incoming, sizes)
    except WireError as error:
        refused = error
    assert client.connected or not left
    assert refused is None or WIRE[refused.reason].fault in (Fault.NODE, Fault.TARGET, Fault.CLIENT)
    assert "pass:word" not in str(refused)

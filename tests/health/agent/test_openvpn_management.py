import itertools
from ipaddress import IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.agent.openvpn_management import Management, ManagementError

PUSH = (
    b">LOG:1795402235,,PUSH: Received control message: 'PUSH_REPLY,redirect-gateway def1,dhcp-option DNS 103.86.96.100,"
    b"dhcp-option DNS 103.86.99.100,dhcp-option DNS 127.0.0.11,dhcp-option DNS 103.86.96.100,ifconfig 10.8.1.2 "
    b"255.255.255.0,peer-id 0'\r\n"
)
SESSION = (
    b">INFO:OpenVPN Management Interface Version 5 -- type 'help' for more info\r\n"
    b">HOLD:Waiting for hold release:0\r\n"
    b"SUCCESS: hold release succeeded\r\n"
    b">STATE:1795402235,WAIT,,,,,,\r\n"
    b">STATE:1795402235,AUTH,,,,,,\r\n" + PUSH + b">STATE:1795402235,CONNECTED,SUCCESS,10.8.1.2,198.18.0.21,1194,,\r\n"
)


def test_a_session_from_hold_to_connected() -> None:
    management = Management()
    assert management.feed(SESSION) == b"state on\nlog on\nhold release\n"
    state = management.state
    assert state.connected
    assert state.address == IPv4Interface("10.8.1.2/32")
    assert state.dns == ("103.86.96.100", "103.86.99.100")
    assert state.auth_failed is None


@given(st.lists(st.integers(0, len(SESSION)), max_size=12))
def test_any_split_of_the_bytes_gives_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(SESSION)]
    management = Management()
    sent = b"".join(management.feed(SESSION[a:b]) for a, b in itertools.pairwise(edges))
    assert sent == b"state on\nlog on\nhold release\n"
    assert management.state.connected
    assert len(management.state.dns) == 2


def test_every_later_hold_is_released_alone() -> None:
    management = Management()
    management.feed(SESSION)
    management.feed(b">STATE:1795402245,RECONNECTING,ping-restart,,,,,\r\n")
    assert not management.state.connected
    assert management.state.detail == "ping-restart"
    assert management.feed(b">HOLD:Waiting for hold release:1\r\n") == b"hold release\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b">PASSWORD:Verification Failed: 'Auth'\r\n", "AUTH_FAILED"),
        (
            b">PASSWORD:Verification Failed: 'Auth' ['AUTH_FAILED,too many sessions']\r\n",
            "AUTH_FAILED,too many sessions",
        ),
        (b">STATE:1,EXITING,auth-failure,,,,,\r\n", "AUTH_FAILED"),
    ],
)
def test_refused_credentials(line: bytes, words: str) -> None:
    management = Management()
    management.feed(line)
    assert management.state.auth_failed == words


@pytest.mark.parametrize(
    "line", [b">STATE:\r\n", b">STATE:1,CONNECTED\r\n", b">LOG:\r\n", b">PASSWORD:\r\n", b"\r\n", b"\xff\n"]
)
def test_short_lines_do_no_harm(line: bytes) -> None:
    management = Management()
    assert management.feed(line) == b""
    assert not management.state.connected


def test_a_line_without_end_is_given_up() -> None:
    with pytest.raises(ManagementError):
        Management().feed(b"x" * 20000)

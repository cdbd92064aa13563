"""What an accepted socket inherits, and how many there may be."""

import resource
import socket
from collections.abc import Iterator

import pytest

from gateway.resources import Budget, listening_socket, raise_descriptor_limit


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_what_is_set_on_the_listening_socket_is_set_on_an_accepted_one(address: str) -> None:
    with listening_socket(address) as sock, socket.create_connection(sock.getsockname()[:2]) as client:
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4
        assert not client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_taken_address_is_named() -> None:
    with listening_socket("127.0.0.1:0") as taken:
        address = "{}:{}".format(*taken.getsockname())
        with pytest.raises(OSError, match=f"cannot listen on {address}: Address already in use"):
            listening_socket(address)


def test_the_budget_leaves_room_for_everything_else() -> None:
    budget = Budget(20_000, pipes=32)
    assert budget.connections == (20_000 - 128 - 1000 - 64) // 2
    assert 2 * budget.connections + budget.stock + 2 * budget.pipes < budget.descriptors
    with pytest.raises(OSError, match="a limit of 128 open files is too low"):
        _ = Budget(128, pipes=32).connections


@pytest.fixture
def own_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_to_the_hard_one(own_limit: None) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    assert raise_descriptor_limit() == min(hard, 1_048_576)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 1_048_576)

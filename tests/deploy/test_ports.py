"""Free and taken ports, with real sockets."""

import os
import socket
from pathlib import Path

import pytest

from deploy import ports


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:443", ("::1", 443)), ("name:1", ("name", 1))],
)
def test_split(address: str, expected: tuple[str, int]) -> None:
    assert ports.split(address) == expected


@pytest.mark.parametrize(
    ("address", "expected"), [("0.0.0.0:80", "127.0.0.1"), ("[::]:80", "::1"), ("127.0.0.2:80", "127.0.0.2")]
)
def test_reachable(address: str, expected: str) -> None:
    assert ports.reachable(address) == (expected, 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_taken_names_the_holder(host: str) -> None:
    me = f"{Path('/proc/self/comm').read_text().strip()} (process {os.getpid()})"
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        assert ports.fault(f"127.0.0.1:{port}") == f"the port is taken by {me}"
        assert ports.fault(f"localhost:{port}") == f"the port is taken by {me}"
    assert ports.fault(f"127.0.0.1:{port}") == ""


def test_the_holders_command_line() -> None:
    mine = tuple(Path("/proc/self/cmdline").read_text().rstrip("\0").split("\0"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ports.holder_command("127.0.0.1", port) == mine
    assert ports.holder_command("127.0.0.1", port) == ()


def test_another_address_is_another_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ports.fault(f"127.0.0.2:{port}") == ""
        assert ports.holder("127.0.0.2", port) == ""


def test_ipv6_holder() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    with server:
        assert f"(process {os.getpid()})" in ports.fault(f"[::1]:{server.getsockname()[1]}")


def test_addresses_that_are_not_ours() -> None:
    assert ports.fault("192.0.2.1:8080") == "192.0.2.1 is no address of this machine"
    assert ports.fault("name.invalid:8080").startswith("name.invalid is no address of this machine (")

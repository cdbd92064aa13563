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
    port = ports.free()  # one that no outgoing connection gets
    with socket.create_server((host, port)):
        assert ports.fault(f"127.0.0.1:{port}") == f"the port is taken by {me}"
        assert ports.fault(f"localhost:{port}") == f"the port is taken by {me}"
    assert ports.fault(f"127.0.0.1:{port}") == ""


def test_the_program_that_listens() -> None:
    mine = tuple(Path("/proc/self/cmdline").read_text().rstrip("\0").split("\0"))
    port = ports.free()
    with socket.create_server(("127.0.0.1", port)):
        found = ports.holding_program("127.0.0.1", port)
        assert found is not None
        assert (found.command, found.directory) == (mine, Path.cwd())
        assert found.environ["PATH"]
    assert ports.holding_program("127.0.0.1", port) is None


def test_another_address_is_another_listener() -> None:
    port = ports.free()
    with socket.create_server(("127.0.0.1", port)):
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


def test_free_ports_are_none_that_outgoing_connections_get() -> None:
    found = [ports.free() for _ in range(50)]
    assert len(set(found)) == 50
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(10_899 < port < max(low, 12_000) for port in found)
    with socket.create_server(("127.0.0.1", found[0])) as server:
        assert ports.fault(f"127.0.0.1:{server.getsockname()[1]}")

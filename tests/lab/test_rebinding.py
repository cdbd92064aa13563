"""A name that means a public address at first, and a private one when it is asked for again: judged is what is dialled.

The judge is a canary that listens where the second address leads, seen from the exit.
"""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.lab import world
from tests.lab.harness import Lab, wait_for

PORT = 80  # the origin's as well, so that the first answer is a good one
REFUSED = {
    "plain HTTP": ("http", ["-w", "%{http_code}"], "403"),
    "CONNECT": ("http", ["-p", "-w", "%{http_connect}"], "403"),
    "SOCKS5": ("socks5h", ["-w", "%{errormsg}"], "(2)"),
}
LISTEN = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("listening", flush=True)
while True:
    connection, caller = listener.accept()
    print(caller[0], flush=True)
    connection.close()
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"


@contextmanager
def quiet(lab: Lab, container: str, address: str, node: str) -> Iterator[None]:
    """Nobody connects to port 80 of a container during the block; somebody in the node could, at `address`."""
    listen = ["nsenter", lab.namespace(container), sys.executable, "-c", LISTEN, str(PORT)]
    canary = subprocess.Popen(listen, stdout=subprocess.PIPE, text=True)
    assert canary.stdout is not None
    with canary.stdout as told:
        try:
            assert told.readline() == "listening\n"
            assert lab.in_namespace(node, sys.executable, "-c", CONNECT, address, str(PORT)).returncode == 0
            assert told.readline()
            yield
        finally:
            canary.terminate()
            canary.wait(5)
        assert told.read() == ""


@pytest.mark.parametrize("later", ["loopback", "private"])
@pytest.mark.parametrize("country", world.PLACES)
def test_a_name_that_changes_its_mind_is_refused(lab: Lab, country: str, later: str) -> None:
    (node, *_) = lab.nodes(country)
    address, where = "127.0.0.1", f"vpnexit-{node}"
    if later == "private":
        told = next(told for told in lab.api("GET", "/api/nodes") if told["id"] == node)
        server = next(server for server in world.SERVERS if server.hostname == told["vpn_server"])
        address, where = server.gateway.partition("/")[0], server.container
    labels = (world.WHOAMI, address, f"a{secrets.token_hex(4)}")
    name = ".".join((*(label.replace(".", "-") for label in labels), world.REBINDING_ZONE))

    def ask(how: str) -> str:
        scheme, options, _ = REFUSED[how]
        proxy = lab.proxy(country, scheme=scheme, extra=f"-node-{node}-strict")
        return lab.curl(proxy, f"http://{name}/", "-o", "/dev/null", *options).stdout

    with quiet(lab, where, address, node):
        assert ask("plain HTTP") == "200"
        # Each gateway keeps the first answer for its time; HAProxy asks them in turn.
        wait_for(lambda: all(ask("plain HTTP") == "403" for _ in range(4)), 20, "the answer has changed for both")
        for how, (_, _, refusal) in REFUSED.items():
            assert refusal in ask(how), how

"""A name that means one address when it is asked for first, and another one later: what is dialled is what was judged."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from deploy.lab import world
from health.agent_client import AgentClient
from tests.lab.harness import Lab, wait_for

COUNTRIES = list(world.PLACES)
PORT = 80  # whoami's, so that the first answer is a good one
ASK = {
    "plain HTTP": ("http", ["-o", "/dev/null", "-w", "%{http_code}"], "403"),
    "CONNECT": ("http", ["-p", "-o", "/dev/null", "-w", "%{http_connect}"], "403"),
    "SOCKS5": ("socks5h", ["-o", "/dev/null", "-w", "%{errormsg}"], "(2)"),
}
CANARY = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("listening", flush=True)
while True:
    connection, caller = listener.accept()
    print(*caller, flush=True)
    connection.close()
"""


class Canary:
    """Listens on every address of a network namespace, and tells of each connection."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._process = subprocess.Popen(
            ["nsenter", namespace, sys.executable, "-c", CANARY, str(PORT)], stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "listening"

    def sings(self, address: str) -> bool:
        """Whether it notices somebody who is in the namespace himself."""
        script = f"import socket; socket.create_connection(('{address}', {PORT}), 2)"
        subprocess.run(["nsenter", self._namespace, sys.executable, "-c", script], check=True, timeout=20)
        return self._line() != ""

    def end(self) -> str:
        """What it has heard since it last was asked."""
        self._process.terminate()
        assert self._process.stdout is not None
        with self._process.stdout:
            rest = self._process.stdout.read()
        self._process.wait(5)
        return rest

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def silence(*namespaces: str, address: str) -> Iterator[None]:
    """Nothing arrives at port 80 of any address of these namespaces during the block."""
    canaries = [Canary(namespace) for namespace in namespaces]
    with ExitStack() as stack:
        for canary in canaries:
            stack.callback(canary.end)
        assert any([canary.sings(address) for canary in canaries])
        yield
        assert [canary.end() for canary in canaries] == [""] * len(canaries)

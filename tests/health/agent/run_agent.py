"""An agent in this (fresh) network namespace, its standard input handed through: DIRECTORY is the one argument.

Its targets listen here as well, and so does the service that tells it how it looks from outside.
"""

import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path

from health.agent import agent
from tests.health.agent.dns_stand_in import DnsStandIn

TARGETS = ("198.18.0.1:443", "198.18.0.2:443", "198.18.0.3:443")
INSIGHTS = ("127.0.0.1", 8090)
_SEEN = b'HTTP/1.0 200 OK\r\n\r\n{"ip":"198.18.0.99","country_code":"JP"}'


def listen() -> None:
    """Targets, and the insights service."""
    for target in TARGETS:
        address, _, port = target.partition(":")
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        listener = socket.create_server((address, int(port)))
        threading.Thread(target=_accept, args=(listener, b""), daemon=True).start()
    threading.Thread(target=_accept, args=(socket.create_server(INSIGHTS), _SEEN), daemon=True).start()


def _accept(listener: socket.socket, answer: bytes) -> None:
    while True:
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            if answer:
                peer.recv(4096)
                peer.sendall(answer)


def main() -> None:
    directory = Path(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    listen()
    DnsStandIn(("127.0.0.1", 53), directory / "mute")
    sys.argv[1] = str(directory / "agent.sock")
    agent.main()


if __name__ == "__main__":
    main()

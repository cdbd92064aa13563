"""A UDP relay before a VPN server of the lab: the kernel's netem, where there is none.

    python -m deploy.lab.relay --port 51820 --delay 0.5      every round trip takes half a second longer
    python -m deploy.lab.relay --port 1194 --loss 0.2        a fifth of the datagrams is lost, each way

It runs in the server's network namespace, in front of the server that listens at the port, says `ready` and serves
until SIGTERM, or until the program that started it ends. Tunnels that are up stay up, when it comes and when it goes:
datagrams are turned aside by rewriting their port without connection tracking, so what flows already is turned aside
as well, and both ends take it for a client that moved.
"""

import argparse
import asyncio
import contextlib
import random
import socket
import subprocess
from collections.abc import Callable, Iterator

from health.process import follow_parent, stop_signals

Address = tuple[str, int]

TABLE = "vxrelay"
# So many wait at most (some 30 MB); what comes on top is lost, as in a router whose queue is full.
_MAX_WAITING = 20_000
_BATCH = 64
_LONGEST = 65_535

_RULES = """
table ip {table}
delete table ip {table}
table ip {table} {{
  chain in {{
    type filter hook prerouting priority raw
    iifname != "lo" udp dport {port} udp dport set {relay}
  }}
  chain out {{
    type filter hook postrouting priority 300
    oifname != "lo" udp sport {relay} udp sport set {port}
  }}
}}
"""


def rules(port: int, relay: int) -> str:
    """What turns datagrams for `port` aside to the port `relay`, and the answers' port back; for `nft -f`."""
    return _RULES.format(table=TABLE, port=port, relay=relay)


class Relay:
    """Carries datagrams of clients to `server`, `delay` seconds late, and the answers back at once.

    `lost()` is asked for each datagram, either way, and says whether it vanishes. Each client has a socket of its own
    towards the server, so that the server can tell them apart.
    """

    def __init__(self, server: Address, delay: float = 0.0, lost: Callable[[], bool] = lambda: False) -> None:
        self._server = server
        self._delay = delay
        self._lost = lost
        self._waiting = 0
        self._front = _socket()
        self._links: dict[Address, socket.socket] = {}

    def open(self, address: Address) -> int:
        """Listen at `address` (port 0: any); the port. Raises OSError."""
        self._front.bind(address)
        asyncio.get_running_loop().add_reader(self._front, self._asked)
        return int(self._front.getsockname()[1])

    def close(self) -> None:
        for sock in (self._front, *self._links.values()):
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    def _asked(self) -> None:
        for data, client in _received(self._front):
            if not self._lost() and self._waiting < _MAX_WAITING:
                self._waiting += 1
                asyncio.get_running_loop().call_later(self._delay, self._forward, data, client)

    def _forward(self, data: bytes, client: Address) -> None:
        self._waiting -= 1
        if self._front.fileno() < 0:  # closed in the meantime
            return
        # Datagrams promise nothing: the server may be away.
        with contextlib.suppress(OSError):
            self._link(client).send(data)

    def _link(self, client: Address) -> socket.socket:
        link = self._links.get(client)
        if link is None:
            link = self._links[client] = _socket()
            link.connect(self._server)
            asyncio.get_running_loop().add_reader(link, self._answered, link, client)
        return link

    def _answered(self, link: socket.socket, client: Address) -> None:
        for data, _ in _received(link):
            if not self._lost():
                with contextlib.suppress(OSError):
                    self._front.sendto(data, client)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _received(sock: socket.socket) -> Iterator[tuple[bytes, Address]]:
    """What lies in the socket's queue now, as far as a turn of the loop should go."""
    for _ in range(_BATCH):
        try:
            yield sock.recvfrom(_LONGEST)
        except OSError:
            return


async def serve(port: int, delay: float, loss: float) -> None:
    """Stand before the server at `port` of this network namespace, until asked to stop. Raises OSError."""
    chance = random.random
    relay = Relay(("127.0.0.1", port), delay, lambda: chance() < loss)
    with stop_signals() as stop:
        # In a namespace of the lab's own, guarded by the lab.
        own = relay.open(("0.0.0.0", 0))  # noqa: S104
        await asyncio.to_thread(_nft, "-f", "-", rules=rules(port, own))
        try:
            print("ready", flush=True)
            await stop.wait()
        finally:
            await asyncio.to_thread(_nft, "delete", "table", "ip", TABLE)
            relay.close()


def _nft(*arguments: str, rules: str = "") -> None:
    subprocess.run(["nft", *arguments], input=rules, text=True, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="a UDP relay before a VPN server of the lab")
    parser.add_argument("--port", type=int, required=True, help="where the server listens")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each round trip takes longer")
    parser.add_argument("--loss", type=float, default=0.0, help="share of the datagrams that are lost, 0 to 1")
    options = parser.parse_args()
    follow_parent()
    asyncio.run(serve(options.port, options.delay, options.loss))


if __name__ == "__main__":
    main()

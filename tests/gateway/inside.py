"""A worker of this process: real sockets and real parts, whose sessions a test can look into.

Its nodes are this machine itself. What a client is told, and that nothing is left behind, is judged from outside.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, Self

from argon2 import PasswordHasher

from gateway import front
from gateway.auth import Authenticator
from gateway.config import GatewaySettings
from gateway.connection_log import ConnectionLog
from gateway.identity import Identifier
from gateway.limits import Limiter
from gateway.links import DirectLink, Link
from gateway.metrics import REFUSALS, Metrics
from gateway.ourselves import Ourselves
from gateway.poller import Poller
from gateway.session import Session
from gateway.worker import Worker
from health.limits import Ask, Lease
from health.model import Node, Record, User
from health.registry import RegistryError
from tests.gateway.stub_fleet import StubFleet, node

WAIT_S = 20.0
RESET = struct.pack("ii", 1, 0)
PASSWORD = "corr:ect"
ALLOWED = (ip_network("127.0.0.0/8"),)


@lru_cache(8)
def hashed(password: str) -> str:
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(password)


def user(name: str = "alice", password: str = PASSWORD, **fields: Any) -> User:
    return User(name=name, password_hash=hashed(password), **fields)


class NoRedis:
    """Users' limits then hold within this worker alone."""

    async def renew_limits(self, asks: Iterable[Ask]) -> list[Lease]:
        raise RegistryError("none here")


class DirectFleet(StubFleet):
    def open_link(self, node: Node) -> Link | None:
        return DirectLink(node.id, Ourselves((), ALLOWED))


class Client:
    """The test's end of a connection to the worker."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.sock, data), WAIT_S)

    async def some(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 18), WAIT_S)

    async def until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            more = await self.some()
            assert more, f"it closed after {data!r}"
            data += more
        return data

    async def rest(self) -> bytes:
        """All until the end. Raises ConnectionResetError."""
        data = b""
        while more := await self.some():
            data += more
        return data

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()


class Inside:
    """The worker, and the clients that the test has connected to it."""

    def __init__(self, *records: Record, **settings: Any) -> None:
        given = {"allow_targets": ALLOWED, **settings}
        self.settings = GatewaySettings.model_validate(given)
        self.poller = Poller(asyncio.get_running_loop())
        self.fleet = DirectFleet(node("zz000001", kind="direct"), *records)
        self.auth = Authenticator()
        self.lines: list[str] = []
        self.worker = Worker(
            settings=self.settings,
            poller=self.poller,
            fleet=self.fleet,
            identifier=Identifier(self.settings, self.auth, self.fleet),
            limiter=Limiter(NoRedis(), lambda: self.fleet.snapshot.users),
            metrics=Metrics(),
            log=ConnectionLog(self.lines.append),
        )
        self._clients: list[Client] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._before = 0

    async def __aenter__(self) -> Self:
        self._limits = asyncio.create_task(self.worker.limiter.run())
        await asyncio.sleep(0)
        self._before = descriptors()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            client.sock.close()
        for session in list(self.worker.sessions):
            session.abort()
        await asyncio.sleep(0)
        self._listener.close()
        self._limits.cancel()
        await self.fleet.close()
        self.auth.close()
        self.poller.close()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def reasons(self) -> list[str]:
        return [line["reason"] for line in self.log]

    @property
    def session(self) -> Session:
        (only,) = self.worker.sessions
        return only

    def refusals(self) -> dict[str, int]:
        return {key[0]: int(row[0]) for key, row in self.worker.metrics.counters()[REFUSALS].items()}

    def connect(self, source: str = "127.0.0.1", here: tuple[str, int] | None = None) -> Client:
        """A client that seems to come from `source`, and to have dialled `here`."""
        far = socket.create_connection(self._listener.getsockname())
        far.setblocking(False)
        accepted, _ = self._listener.accept()
        near = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, accepted.detach())
        near.setblocking(False)
        host, port = here or ("127.0.0.1", 3128)
        front.welcome(self.worker, near, source, (ip_address(host), port))
        self._clients.append(Client(far))
        return self._clients[-1]

    async def until(self, condition: Any, what: str = "condition") -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.002)

    async def nothing_left(self) -> None:
        """All sessions are gone, and every descriptor and place that they had."""
        for client in self._clients:
            client.sock.close()
        await self.until(lambda: not self.worker.sessions, "no session")
        await self.until(lambda: descriptors() <= self._before, "no descriptor")
        links = self.fleet.links.values()
        assert [(len(link.dials), len(link.tunnels)) for link in links] == [(0, 0)] * len(links)
        worker = self.worker
        kept = (
            worker.handshakes,
            worker.proxy_headers,
            worker.lingering,
            worker.dialler.patience,
            worker.dialler.deadlines,
        )
        assert [len(deadlines) for deadlines in kept] == [0] * 5
        assert worker.metrics.open == 0
        assert worker.empty.is_set()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The port of a target that sends everything back, and ends when its client does."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0)

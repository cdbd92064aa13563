"""Plain HTTP seen from both ends: an origin that the test plays byte by byte, behind a real gateway with a direct node.

The judge of every test is what the origin received.
"""

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Self

from health.config import RedisSettings
from health.model import Node, NodeStatus, User
from health.registry import Registry
from tests.conftest import RedisServer
from tests.gateway.harness import MACHINE, Gateway

WAIT_S = 20.0
NODE = "zz000001"
# The ids that a gateway makes are all of one length; what was read shows this one in their place.
SOME_ID = b"X-Request-Id: " + b"0" * 16 + b"\r\n"
EXIT = b"X-Exit-Node: zz000001\r\nX-Exit-Country: zz\r\n" + SOME_ID
_ID = re.compile(rb"(?<=\r\n)X-Request-Id: [0-9a-f]{16}\r\n")


class End:
    """One end of a connection, played by the test. Everything that was read is in `received`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = b""
        self._reader, self._writer = reader, writer

    async def head(self) -> bytes:
        """A message's head, its final empty line included."""
        return await self._read(self._reader.readuntil(b"\r\n\r\n"))

    async def exactly(self, count: int) -> bytes:
        return await self._read(self._reader.readexactly(count))

    async def some(self) -> bytes:
        """Whatever comes next; b"" at the end."""
        return await self._read(self._reader.read(1 << 20))

    async def rest(self) -> bytes:
        """All until the peer closes. Raises ConnectionResetError where it resets."""
        return await self._read(self._reader.read())

    async def silent(self, seconds: float = 0.3) -> bool:
        """True if nothing comes for so long."""
        try:
            await asyncio.wait_for(self.some(), seconds)
        except TimeoutError:
            return True
        return False

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(WAIT_S):
            await self._writer.drain()

    def finish(self) -> None:
        """Say that nothing more comes, and go on reading."""
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def drop(self) -> None:
        """Close without waiting for the peer to take what was sent."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def reset(self) -> None:
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def _read(self, reading) -> bytes:  # type: ignore[no-untyped-def]
        async with asyncio.timeout(WAIT_S):
            data: bytes = await reading
        self.received += data
        return _ID.sub(SOME_ID, data)


class Origin:
    """Listens on 127.0.0.1; the test takes the connections one by one."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: asyncio.Queue[End] = asyncio.Queue()
        self._ends: list[End] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            await end.drop()
        await self._server.wait_closed()

    async def accepted(self) -> End:
        return await asyncio.wait_for(self._waiting.get(), WAIT_S)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def host(self) -> bytes:
        return b"127.0.0.1:%d" % self.port

    @property
    def url(self) -> bytes:
        return b"http://" + self.host

    def request(self, *fields: bytes, method: bytes = b"GET", path: bytes = b"/", version: bytes = b"1.1") -> bytes:
        """A request head for the proxy."""
        lines = (b"%b %b%b HTTP/%b" % (method, self.url, path, version), b"Host: " + self.host, *fields)
        return b"\r\n".join((*lines, b"", b""))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        end = End(reader, writer)
        self._ends.append(end)
        self._waiting.put_nowait(end)


@contextlib.asynccontextmanager
async def client_of(gateway: Gateway, *, port: int | None = None) -> AsyncIterator[End]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port or gateway.port, limit=1 << 20)
    end = End(reader, writer)
    try:
        yield end
    finally:
        await end.drop()


@contextlib.contextmanager
def direct_gateway(directory: Path, binary: str, *users: User, **settings: object) -> Iterator[Gateway]:
    """A gateway whose only node is this machine, and which knows `users`."""
    redis = RedisServer(binary)
    redis.start()
    gateway = None
    try:
        recorder = threading.Thread(target=asyncio.run, args=(_record(redis.url, users),))
        recorder.start()
        recorder.join()
        gateway = Gateway(redis.url, directory, **settings)
        yield gateway
    finally:
        if gateway is not None:
            gateway.close()
        redis.remove()


async def _record(url: str, users: Iterable[User]) -> None:
    registry = Registry.open(RedisSettings(url=url, timeout=5))
    for user in users:
        await registry.put_user(user)
    await registry.put_node(Node(id=NODE, country="zz", kind="direct", machine=MACHINE, status=NodeStatus.SERVING))
    await registry.begin_epoch()
    await registry.close()


def fields_of(head: bytes) -> list[bytes]:
    """The header lines of a head, in lower case."""
    return head.lower().split(b"\r\n")[1:-2]

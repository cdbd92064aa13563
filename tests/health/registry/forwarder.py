"""A TCP forwarder before a real Redis: it can point elsewhere, and be deaf to subscriptions alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Forwarder:
    """`to` is the port of 127.0.0.1 that new connections reach; `no_subscribers` cuts those who subscribe, or try to.

    `mute_subscribers` keeps them, and passes nothing on to them.
    """

    def __init__(self, to: int) -> None:
        self.to = to
        self.no_subscribers = False
        self.mute_subscribers = False
        self.port = 0
        self.subscribers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut_subscribers(self) -> None:
        for writer in list(self.subscribers):
            writer.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.transport.abort()
            return
        up = asyncio.create_task(self._up(reader, far_writer, writer))
        down = asyncio.create_task(self._down(far_reader, writer))
        self._tasks |= {up, down}
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        self.subscribers.discard(writer)
        for one in (writer, far_writer):
            one.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if b"SUBSCRIBE" in data:
                    self.subscribers.add(writer)
                    if self.no_subscribers:
                        return
                far.write(data)

    async def _down(self, far: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await far.read(65536):
                if not (self.mute_subscribers and writer in self.subscribers):
                    writer.write(data)

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def forwarding(to: int) -> AsyncIterator[Forwarder]:
    forwarder = Forwarder(to)
    carried: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried.add(asyncio.create_task(forwarder.carry(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    forwarder.port = server.sockets[0].getsockname()[1]
    try:
        yield forwarder
    finally:
        server.close()
        forwarder.end()
        await asyncio.gather(*carried, return_exceptions=True)

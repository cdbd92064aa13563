"""A node for speed tests, in a network namespace of its own: an agent, and an endpoint that behaves as it is asked to.

Run under `unshare -n`, where only `lo` is, with 9.9.9.9 on it. argv: node id, socket path, and for each port that is to
speak TLS `port=directory/name` of a certificate and its key. Says `ready` on stdout, then takes the commands of
`tests.gateway.exit_stand_in` on stdin. The endpoint listens on port 80, too; its paths are the methods of `Endpoint`.
`/stats` says how many requests each path had, and how many bytes the endpoint has sent and read. At 9.9.9.9
somebody says nothing on port 81, and answers whatever comes in plain HTTP on port 82.
"""

import asyncio
import json
import ssl
import sys

from tests.gateway.exit_stand_in import Agent

NAMES = {
    "public.test": ["9.9.9.9"],
    "private.test": ["10.9.9.9"],
    "mixed.test": ["9.9.9.9", "127.0.0.1"],
    "multicast.test": ["224.0.0.1"],
}
PIECE = bytes(65_536)


class SampledAgent(Agent):
    def on_sample(self, asked: dict, fds: list[int]) -> dict:
        sample = {"tunnel": self.tunnel, "generation": self.generation, "kill_switch": True, "probe_ms": 20.0}
        return {"sample": sample}


class Endpoint:
    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.sent = self.read = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path, _, query = head.split()[1].partition("?")
            name = path.strip("/").replace("-", "_")
            self.requests[name] = self.requests.get(name, 0) + 1
            length = next((int(line[15:]) for line in head.lower().split("\r\n") if line[:15] == "content-length:"), 0)
            await getattr(self, name)(reader, writer, int(query[2:] or 0), length)
            while length and await reader.read(65_536):  # else what was answered is lost in a reset
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def stats(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        body = json.dumps({"requests": self.requests, "sent": self.sent, "read": self.read}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def bytes(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, n: int, __: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % n)
        await self._send(writer, n)

    async def short(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(1000))

    async def cut(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, n: int, __: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % n)
        await self._send(writer, n // 2)

    async def endless(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await self._send(writer, 1 << 50)

    async def paced(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, n: int, __: int) -> None:
        """A megabyte a second."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % n)
        for _number in range(n // 20_000):
            await self._send(writer, 20_000)
            await asyncio.sleep(0.02)

    async def drip(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await self._send(writer, 1)
            await asyncio.sleep(0.05)

    async def dripping_head(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            await self._send(writer, 1, b"a")
            await asyncio.sleep(0.05)

    async def large_head(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        await self._send(writer, 1 << 50, b"a" * 65_536)

    async def silent(self, reader: asyncio.StreamReader, *_: object) -> None:
        await reader.read(1)
        await asyncio.sleep(60)

    async def closing(self, _: object, writer: asyncio.StreamWriter, *__: object) -> None:
        writer.close()
        raise ConnectionResetError

    async def garbage(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n\r\n")

    async def missing(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async def html(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 4\r\n\r\n<p>a")

    async def redirect(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /bytes?n=1000000\r\nContent-Length: 0\r\n\r\n")

    async def sink(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int, length: int) -> None:
        while length:
            data = await reader.read(65_536)
            if not data:
                return  # the client has left
            length -= len(data)
            self.read += len(data)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def paced_sink(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *_: int) -> None:
        while data := await reader.read(20_000):
            self.read += len(data)
            await asyncio.sleep(0.02)

    async def early(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, *__: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(1)

    async def _send(self, writer: asyncio.StreamWriter, count: int, piece: "bytes" = PIECE) -> None:
        while count > 0:
            part = piece[:count]
            writer.write(part)
            await writer.drain()
            count -= len(part)
            self.sent += len(part)


async def main() -> None:
    agent = SampledAgent(sys.argv[1], sys.argv[2], NAMES)
    agent.listen()
    agent.loop.add_reader(0, agent.command)
    endpoint = Endpoint()
    server = await asyncio.start_server(endpoint.serve, "0.0.0.0", 80)
    await asyncio.start_server(endpoint.silent, "9.9.9.9", 81)
    await asyncio.start_server(endpoint.missing, "9.9.9.9", 82)
    for port, _, files in (given.partition("=") for given in sys.argv[3:]):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(f"{files}.pem", f"{files}.key")
        await asyncio.start_server(endpoint.serve, "0.0.0.0", int(port), ssl=context)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

"""An exit in a network namespace of its own, for the gateway's tests: an agent and, behind it, an origin.

Run under `unshare -n`, where only `lo` is. argv: node id, socket path, JSON table of names. Answers one line of JSON on
stdout when ready, then takes commands on stdin, one a line: `down`, `up` (next generation), `mute` (no answers).
The origin on 127.0.0.1:80 answers GET with this node's id, POST with the body, /slow after a second, /cut half an
answer, /bytes?N with N bytes; port 7 echoes; port 9 reads nothing; port 19 sends without end.
"""

import array
import asyncio
import json
import os
import socket
import sys

from health.agent import protocol

FAMILY = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
TYPE = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}


class Agent:
    def __init__(self, node: str, path: str, names: dict[str, list[str]]) -> None:
        self.node, self.names, self.generation, self.tunnel, self.mute = node, names, 1, "up", False
        self.peers: set[socket.socket] = set()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.listener.bind(path)
        self.loop = asyncio.get_running_loop()

    def listen(self) -> None:
        # The kernel remembers who called listen() as the peer's credentials.
        self.listener.listen(16)
        self.loop.add_reader(self.listener, self.accept)

    def accept(self) -> None:
        peer, _ = self.listener.accept()
        peer.setblocking(False)
        self.peers.add(peer)
        self.loop.add_reader(peer, self.answer, peer)

    def answer(self, peer: socket.socket) -> None:
        data = peer.recv(protocol.MAX_DATAGRAM)
        if not data:
            self.loop.remove_reader(peer)
            self.peers.discard(peer)
            peer.close()
            return
        if self.mute:
            return
        asked = protocol.decode(data)
        fds: list[int] = []
        reply = {"id": asked["id"], **getattr(self, "on_" + asked["op"])(asked, fds)}
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        peer.sendmsg([protocol.encode(reply)], ancillary)
        for fd in fds:
            os.close(fd)

    def on_hello(self, asked: dict, fds: list[int]) -> dict:
        state = {"node": self.node, "tunnel": self.tunnel, "generation": self.generation}
        return {**state, "families": ["inet"], "kill_switch": True, "reason": ""}

    def on_sockets(self, asked: dict, fds: list[int]) -> dict:
        fds += [socket.socket(FAMILY[asked["family"]], TYPE[asked["type"]]).detach() for _ in range(asked["n"])]
        return {"generation": self.generation, "n": len(fds)}

    def on_resolve(self, asked: dict, fds: list[int]) -> dict:
        found = self.names.get(asked["name"], [])
        return {"addresses": found, "ttl": 60, "lookup": "" if found else protocol.NOT_FOUND}

    def command(self) -> None:
        for line in os.read(0, 4096).decode().split():
            if line == "mute":
                self.mute = True
                continue
            self.tunnel = line
            self.generation += line == "up"
            for peer in self.peers:
                peer.send(protocol.encode({"op": line, "generation": self.generation}))


class Origin:
    def __init__(self, node: str) -> None:
        self.node = node

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self.exchange(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def exchange(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, _ = head.split(b"\r\n")[0].split(b" ")
        body = self.node.encode() + b"\n"
        if method == b"POST":
            body = await self.body(head, reader)
        elif path.startswith(b"/bytes?"):
            body = b"x" * int(path.partition(b"?")[2])
        elif path == b"/head":
            body = head
        elif path == b"/slow":
            await asyncio.sleep(1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Node: %s\r\n\r\n" % (len(body), self.node.encode()))
        if path == b"/cut":
            writer.write(body[:2])
            writer.close()
            return
        if method != b"HEAD":
            writer.write(body)
        await writer.drain()

    async def body(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in head.split(b"\r\n"))}
        if fields.get(b"transfer-encoding") != b"chunked":
            return await reader.readexactly(int(fields.get(b"content-length", b"0")))
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write(b"bye")
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def deaf(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()
        await asyncio.sleep(60)

    async def chatter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        except ConnectionError:
            pass


async def serve_origin(node: str, ready: int) -> None:
    origin = Origin(node)
    for port, handler in ((80, origin.http), (7, origin.echo), (9, origin.deaf), (19, origin.chatter)):
        await asyncio.start_server(handler, "127.0.0.1", port, limit=2**20)
    os.write(ready, b"1")
    await asyncio.Event().wait()


async def serve_agent(node: str, path: str, names: dict[str, list[str]], origin: int) -> None:
    agent = Agent(node, path, names)
    os.setgid(protocol.AGENT_UID)
    os.setuid(protocol.AGENT_UID)
    agent.listen()
    asyncio.get_running_loop().add_reader(0, agent.command)
    print(json.dumps({"origin": origin}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    node, path, names = sys.argv[1:4]
    # The origin is another process: it goes on when the agent is killed, as a website does when an exit dies.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(1)
        asyncio.run(serve_origin(node, writing))
    os.read(reading, 1)
    asyncio.run(serve_agent(node, path, json.loads(names), child))


if __name__ == "__main__":
    main()

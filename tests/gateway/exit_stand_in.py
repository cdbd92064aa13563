"""An exit in a network namespace of its own, for the gateway's tests: an agent and, behind it, an origin.

Run under `unshare -n`, where only `lo` is. argv: node id, socket path, JSON table of names. Answers one line of JSON on
stdout when ready, then takes commands on stdin, one a line: `down`, `up` (next generation), `mute` (no answers),
`dry` (no datagram sockets), `inet6` (the tunnel carries IPv6).
The origin on 127.0.0.1:80 answers GET with this node's id, POST with the body, /slow after a second, /cut half an
answer, /bytes?N with N bytes; port 7 echoes; port 9 reads nothing; port 19 sends without end.
For datagrams: port 7 echoes, on ::1 too; port 9 counts what it gets and says so for `?`; port 13 says who asked; port
17 answers from another port; port 19 answers with as many bytes as were asked for; port 53 is a DNS server that knows
the address 127.0.0.77 and this node's id as TXT.
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
        self.dry, self.families, self.turns = False, ["inet"], 0
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
        if asked.get("name") == "slow.test":
            self.loop.call_later(1, self.reply, peer, asked)
        else:
            self.reply(peer, asked)

    def reply(self, peer: socket.socket, asked: dict) -> None:
        if peer not in self.peers:
            return
        fds: list[int] = []
        reply = {"id": asked["id"], **getattr(self, "on_" + asked["op"])(asked, fds)}
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        peer.sendmsg([protocol.encode(reply)], ancillary)
        for fd in fds:
            os.close(fd)

    def on_hello(self, asked: dict, fds: list[int]) -> dict:
        state = {"node": self.node, "tunnel": self.tunnel, "generation": self.generation}
        return {**state, "families": self.families, "kill_switch": True, "reason": ""}

    def on_sample(self, asked: dict, fds: list[int]) -> dict:
        state = {"tunnel": self.tunnel, "generation": self.generation, "kill_switch": True}
        return {"sample": {**state, "probe_ms": 1.0}}

    def on_sockets(self, asked: dict, fds: list[int]) -> dict:
        if self.dry and asked["type"] == "dgram":
            return {"error": "no datagram sockets"}
        fds += [socket.socket(FAMILY[asked["family"]], TYPE[asked["type"]]).detach() for _ in range(asked["n"])]
        return {"generation": self.generation, "n": len(fds)}

    def on_resolve(self, asked: dict, fds: list[int]) -> dict:
        inet6 = asked.get("family") == "inet6"
        found = [address for address in self.names.get(asked["name"], []) if (":" in address) == inet6]
        if asked["name"] == "rebind.test":
            self.turns += 1
            return {"addresses": [found[(self.turns - 1) % 2]], "ttl": 0, "lookup": ""}
        return {"addresses": found, "ttl": 60, "lookup": "" if found else protocol.NOT_FOUND}

    def command(self) -> None:
        for line in os.read(0, 4096).decode().split():
            if line == "mute":
                self.mute = True
                continue
            if line == "dry":
                self.dry = True
                continue
            if line == "inet6":
                self.families = ["inet", "inet6"]
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


class Datagrams(asyncio.DatagramProtocol):
    """The origin on UDP: what it does depends on the port."""

    def __init__(self, node: str, port: int) -> None:
        self.node, self.port, self.seen = node, port, 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: tuple) -> None:
        if self.port == 7:
            self.transport.sendto(data, peer)
        elif self.port == 9:
            self.seen += data != b"?"
            if data == b"?":
                self.transport.sendto(b"%d" % self.seen, peer)
        elif self.port == 13:
            self.transport.sendto(f"{self.node} {peer[0]} {peer[1]}".encode(), peer)
        elif self.port == 17:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"unasked", peer)
            self.transport.sendto(b"asked", peer)
        elif self.port == 19:
            self.transport.sendto(bytes(int(data)), peer)
        elif self.port == 53:
            self.transport.sendto(self.resolve(data), peer)

    def resolve(self, query: bytes) -> bytes:
        question = query[12:]
        kind = int.from_bytes(question[-4:-2])
        found = bytes([127, 0, 0, 77]) if kind == 1 else bytes([len(self.node)]) + self.node.encode()
        head = query[:2] + b"\x81\x80\x00\x01\x00\x01" + bytes(4)
        record = b"\xc0\x0c" + kind.to_bytes(2) + b"\x00\x01" + (60).to_bytes(4) + len(found).to_bytes(2) + found
        return head + question + record


async def serve_datagrams(node: str) -> None:
    loop = asyncio.get_running_loop()
    for port in (7, 9, 13, 17, 19, 53):
        await loop.create_datagram_endpoint(lambda p=port: Datagrams(node, p), ("127.0.0.1", port))
    for host in ("::1", "127.0.0.3"):
        await loop.create_datagram_endpoint(lambda: Datagrams(node, 7), (host, 7))


async def serve_origin(node: str, ready: int) -> None:
    origin = Origin(node)
    await serve_datagrams(node)
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

"""The agent: an unprivileged process beside the tunnel that hands out sockets, looks names up and watches the tunnel.

It reads PID 1's reports on standard input and ends when they end. It listens on one Unix socket and on nothing else.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

from health.agent import handover, log, report
from health.agent.outside import Outside
from health.agent.probe import DOWN, STARTING, UP
from health.agent.prober import Prober
from health.agent.protocol import FAMILIES, LOOKUP_FAILED
from health.agent.resolver import Answer, Channel, Resolver
from health.agent.server import Peer, Server
from health.agent.tun import DEVICE
from health.agent.usage import Usage

# The tunnels carry IPv4 only; an IPv6 socket is handed over when asked for, and fails at once.
_CARRIED = ("inet",)
_MAX_PENDING = 256
# Bytes as the kernel counts them, about a thousand for a datagram with 200 descriptors: some ten of those.
_MAX_UNREAD = 10_000
_SILENT = "no answer through the tunnel"
_STATISTICS = f"/sys/class/net/{DEVICE}/statistics"


class Agent:
    """Everything the agent knows, and its answers. Lives on one event loop."""

    def __init__(self, first: report.Report) -> None:
        self._loop = asyncio.get_running_loop()
        self._report = first
        chance = random.SystemRandom().random
        self._prober = Prober(chance, self._announce)
        self._outside = Outside(chance)
        self._usage = Usage()
        self._shown = STARTING
        self._tasks: set[asyncio.Task[None]] = set()
        self._resolver: Resolver | None = None
        self._channel: Channel | None = None
        self._server = Server(self.handle)

    def start(self, path: str) -> None:
        """Listen at `path` and begin to probe. Raises OSError."""
        self._server.listen(path)
        self.take(self._report)

    async def close(self) -> None:
        """Drop all peers and stop everything."""
        self._server.close()
        self._prober.close()
        self._outside.close()
        if self._resolver is not None:
            self._resolver.cancel()
        if self._channel is not None:
            await self._channel.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def take(self, news: report.Report) -> None:
        """Take in what PID 1 reports."""
        self._report = news
        self._prober.look(news.link, news.probe_name, news.dns, news.targets)

    def handle(self, peer: Peer, message: dict[str, Any]) -> None:
        """Answer one request."""
        answer: dict[str, Any] = {"id": message.get("id")}
        match message.get("op"):
            case "hello":
                peer.send({**answer, **self._hello()})
            case "sample":
                peer.send({**answer, "sample": self._sample()})
            case "sockets":
                self._hand_over(peer, message, answer)
            case "resolve":
                self._look_up(peer, message, answer)
            case _:
                peer.send({**answer, "error": "unknown request"})

    def _hello(self) -> dict[str, Any]:
        return {
            "node": self._report.node,
            "tunnel": self._prober.state,
            "generation": self._prober.generation,
            "families": list(_CARRIED),
            "kill_switch": self._report.kill_switch,
            "reason": self._reason(),
        }

    def _reason(self) -> str:
        if self._prober.state == UP:
            return ""
        if not self._report.link:
            return self._report.reason
        if not self._report.dns:
            return "the tunnel has no name server"
        return "names are answered, but no target is reached" if self._prober.only_named else _SILENT

    def _sample(self) -> dict[str, Any]:
        return {
            "tunnel": self._prober.state,
            "generation": self._prober.generation,
            "kill_switch": self._report.kill_switch,
            **self._prober.measured(),
            "exit_ip": self._outside.address,
            "exit_country": self._outside.country,
            "handshake_age_s": self._report.handshake_age_s,
            "cpu_percent": self._usage.cpu_percent(self._loop.time()),
            "memory_bytes": self._usage.memory_bytes(),
            "rx_bytes": _counter("rx_bytes"),
            "tx_bytes": _counter("tx_bytes"),
        }

    def _hand_over(self, peer: Peer, message: dict[str, Any], answer: dict[str, Any]) -> None:
        if self._prober.state != UP:
            peer.send({**answer, "error": f"the tunnel is {self._prober.state}"})
            return
        if peer.unread > _MAX_UNREAD:
            peer.send({**answer, "error": "earlier answers are not read yet"})
            return
        try:
            with handover.made(message.get("family"), message.get("type"), message.get("n")) as descriptors:
                peer.send({**answer, "generation": self._prober.generation, "n": len(descriptors)}, descriptors)
        except handover.RefusedError as error:
            peer.send({**answer, "error": str(error)})

    def _look_up(self, peer: Peer, message: dict[str, Any], answer: dict[str, Any]) -> None:
        name, family = message.get("name"), message.get("family")
        if not isinstance(name, str) or family not in FAMILIES:
            peer.send({**answer, "error": "a name and a known family expected"})
        elif self._prober.state != UP or self._resolver is None:
            peer.send({**answer, "error": f"the tunnel is {self._prober.state}"})
        elif peer.pending >= _MAX_PENDING:
            peer.send({**answer, "error": "too many look-ups at once"})
        else:
            peer.pending += 1
            self._spawn(self._resolve(peer, self._resolver, name, family, answer))

    async def _resolve(self, peer: Peer, resolver: Resolver, name: str, family: str, answer: dict[str, Any]) -> None:
        try:
            found = await resolver.resolve(name, family)
        except asyncio.CancelledError:
            found = Answer(lookup=LOOKUP_FAILED)
        peer.pending -= 1
        peer.send({**answer, "addresses": found.addresses, "ttl": round(found.ttl, 3), "lookup": found.lookup})

    def _announce(self) -> None:
        state = self._prober.state
        if state == self._shown:
            return
        self._shown = state
        if state == UP:
            self._renew()
        log.write("tunnel", state=state, generation=self._prober.generation, reason=self._reason())
        self._server.broadcast({"op": UP if state == UP else DOWN, "generation": self._prober.generation})

    def _renew(self) -> None:
        # Old look-ups were bound to the tunnel's old address; what they learnt may hold for the old server only.
        if self._resolver is not None:
            self._resolver.cancel()
        if self._channel is not None:
            self._spawn(self._channel.close())
        self._channel = Channel(self._report.dns)
        self._resolver = Resolver(self._channel.query, time.monotonic)
        self._outside.renew(self._report.insights_url, partial(_addresses, self._resolver))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _addresses(resolver: Resolver, name: str) -> tuple[str, ...]:
    return (await resolver.resolve(name, "inet")).addresses


def _counter(name: str) -> int:
    try:
        with open(f"{_STATISTICS}/{name}") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


async def run(path: str, descriptor: int) -> None:
    """Serve at `path` until the reports on `descriptor` end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        first = await reader.readline()
        if first:
            agent = Agent(report.read(first))
            agent.start(path)
            while line := await reader.readline():
                agent.take(report.read(line))
            await agent.close()
        transport.close()


def main() -> None:
    """Run on standard input and the socket path given as the one argument."""
    # PID 1 decides when to end; it closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(run(sys.argv[1], sys.stdin.fileno()))


if __name__ == "__main__":
    main()

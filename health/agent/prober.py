"""Asks name servers and targets through the tunnel, round after round, and follows whether it is up.

When to ask and what follows from a round is `probe`'s; who must answer for a round to be a good one is `panel`'s. Here
is what they leave out: sockets, timers and the clock.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from health.agent import dns
from health.agent.connect import Connects
from health.agent.panel import TIMEOUT, Panel
from health.agent.probe import Probe, Timing

# A provider that names more has some to spare.
_MAX_SERVERS = 4


class Prober:
    """`look` says what to ask; `changed()` is called after everything that may have changed the state."""

    def __init__(self, chance: Callable[[], float], changed: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = changed
        self._probe = Probe(self._loop.time(), chance, Timing(timeout=TIMEOUT))
        self._panel = Panel()
        self._connects = Connects(self._connected, TIMEOUT)
        self._timer: asyncio.TimerHandle | None = None
        self._name = ""
        self._servers: tuple[str, ...] = ()
        self._targets: tuple[str, ...] = ()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._loop.add_reader(self._socket, self._answers)

    @property
    def state(self) -> str:
        return self._probe.state

    @property
    def generation(self) -> int:
        return self._probe.generation

    @property
    def only_named(self) -> bool:
        """Whether names are answered while none of the targets is reached."""
        return self._panel.only_named

    def look(self, link: bool, name: str, servers: tuple[str, ...], targets: tuple[str, ...]) -> None:
        """Ask for `name` at `servers` and connect to `targets` from now on, while there is a `link`."""
        self._name, self._servers, self._targets = name, servers[:_MAX_SERVERS], targets
        self._probe.link(link and bool(servers), self._loop.time())
        self._step()

    def measured(self) -> dict[str, Any]:
        """What `health.model.Sample` has of it."""
        now, rtt = self._loop.time(), self._probe.rtt
        self._panel.expire(now)
        return {"probe_ms": None if rtt is None else round(rtt * 1000, 2), **self._panel.measured(now)}

    def close(self) -> None:
        """Stop asking."""
        self._connects.close()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._timer is not None:
            self._timer.cancel()

    def _step(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        self._panel.expire(now)
        number = self._probe.poll(now)
        if number is not None:
            self._ask(number, now)
        self._changed()
        due = self._probe.due()
        if due is not None:
            self._timer = self._loop.call_at(due, self._step)

    def _ask(self, number: int, now: float) -> None:
        self._panel.begin(number, self._servers, self._targets, now)
        question = dns.question(number, self._name)
        for server in self._servers:
            try:
                self._socket.sendto(question, (server, dns.PORT))
            except OSError:
                self._failed(number, server)
        for target in self._targets:
            self._connects.dial(number, target)

    def _answers(self) -> None:
        for _ in range(16):
            try:
                data, (address, port) = self._socket.recvfrom(2048)
            except OSError:
                break
            number = dns.answered(data)
            if number is not None and port == dns.PORT:
                self._answered(number, address)
        self._step()

    def _connected(self, number: int, target: str, reached: bool) -> None:
        if self._answered(number, target) if reached else self._failed(number, target):
            self._step()

    def _answered(self, number: int, name: str) -> bool:
        now = self._loop.time()
        good = self._panel.answered(number, name, now)
        if good:
            before = self._probe.generation
            self._probe.answered(number, now)
            if self._probe.generation != before:
                self._panel.renew(number)
        return good

    def _failed(self, number: int, name: str) -> bool:
        lost = self._panel.failed(number, name)
        if lost:
            self._probe.failed(number)
        return lost

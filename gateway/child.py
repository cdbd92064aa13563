"""One worker process, as its supervisor sees it: started, asked for its numbers, told to end.

They talk over a pair of connected sockets. First the supervisor says what the worker needs to know (`plan`); after
that every empty line it sends asks for the worker's state, and every line from the worker is its state, which it also
sends about once a second. Besides, either may send a `guess`: a word about a log-in that failed, for all workers.
Knows nothing of why a worker is started or ended.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from gateway import metrics
from gateway.guesses import Entry, Word, write_word
from gateway.metrics import Counters
from health.process import tie_to_parent

LINE_LIMIT = 64 * 1024 * 1024
# A worker that has not said anything for so long hangs.
SILENT_S = 10.0
UNREAD_BYTES = 65536  # words that wait for a worker; one that does not read misses the rest


class ChildError(Exception):
    """The worker ended before it listened."""


class Child:
    """A worker. Made by `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_guess: "OnGuess",
    ) -> None:
        self._process = process
        self._writer = writer
        self._on_guess = on_guess
        self._state: dict[str, Any] = {}
        self._heard_at = self._started_at = time.monotonic()
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read(reader), name=f"state of {process.pid}")

    @classmethod
    async def start(
        cls,
        worker: Any,
        sockets: Mapping[str, socket.socket],
        *,
        alone: bool,
        failures: Sequence[Entry] = (),
        on_guess: "OnGuess" = lambda teller, said: None,
    ) -> Self:
        """A new process that inherits `sockets` and is told what `plan` made for it, and of `failures` to log in.

        `on_guess` takes every word of it about a guess, unread. Raises OSError.
        """
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        inherited = [sock.fileno() for sock in sockets.values()]
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "gateway",
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *inherited),
                    preexec_fn=lambda: _before_exec(parent),
                )
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_LIMIT)
        told = {"worker": worker, "sockets": inherited, "alone": alone, "failures": failures}
        writer.write(json.dumps(told).encode() + b"\n")
        return cls(process, reader, writer, on_guess)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ran(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_at

    @property
    def listening(self) -> bool:
        """Whether it accepts clients."""
        return bool(self._state.get("listening"))

    @property
    def ready(self) -> bool:
        """Whether it accepts clients, knows the fleet, and has been heard of lately."""
        heard = time.monotonic() - self._heard_at < SILENT_S
        return self.listening and bool(self._state.get("ready")) and heard

    @property
    def counters(self) -> Counters:
        """What it counted, by its last word."""
        return metrics.from_json(self._state.get("counters", {}))

    @property
    def carried(self) -> Mapping[str, int]:
        """Connections through each node now."""
        carried: Mapping[str, int] = self._state.get("carried", {})
        return carried

    @property
    def panic(self) -> Mapping[str, bool]:
        """By country: whether more of its nodes should be left out of the choice than may be."""
        panic: Mapping[str, bool] = self._state.get("panic", {})
        return panic

    @property
    def gauges(self) -> Mapping[str, float]:
        """Numbers that are true now, by its last word."""
        gauges: Mapping[str, float] = self._state.get("gauges", {})
        return gauges

    @property
    def nodes(self) -> list[str]:
        """The nodes whose numbers it wants to be shown."""
        nodes: list[str] = self._state.get("nodes", [])
        return nodes

    async def ask(self) -> None:
        """Wait until it has told its state anew, or ended."""
        self._news.clear()
        if not self._reading.done():
            self._writer.write(b"\n")
            await self._news.wait()

    def tell(self, word: Word) -> None:
        """A word about a guess. Lost on one that has ended or does not read."""
        if not self._reading.done() and self._writer.transport.get_write_buffer_size() < UNREAD_BYTES:
            self._writer.write(json.dumps({"guess": write_word(word)}).encode() + b"\n")

    async def until_ready(self) -> None:
        """Wait until it accepts clients and knows where to send them. Raises ChildError when it ends before."""
        while not self.ready:
            if self._reading.done():
                raise ChildError(f"worker {self.pid} ended at once, exit code {await self._process.wait()}")
            self._news.clear()
            await self._news.wait()

    async def ended(self) -> int:
        """Wait for its end and its last word; the exit code, negative for a signal."""
        await asyncio.wait({self._reading})
        code = await self._process.wait()
        self._writer.close()
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """SIGTERM to drain, SIGKILL to end at once. Nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if line.endswith(b"\n"):
                    self._take(json.loads(line))
        except (OSError, ValueError):
            pass
        finally:
            self._news.set()

    def _take(self, said: dict[str, Any]) -> None:
        if "guess" in said:
            self._on_guess(self, said["guess"])
            return
        self._state = said
        self._heard_at = time.monotonic()
        self._news.set()


OnGuess = Callable[[Child, object], None]


def _before_exec(parent: int) -> None:
    # Ctrl-C and a closed terminal reach the whole process group: what they mean is the supervisor's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    tie_to_parent(parent)

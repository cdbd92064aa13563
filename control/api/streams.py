"""Events on their way to those who listen: numbered, kept for a while, and handed out. No sockets, no Redis in here.

Ids are `<instance>-<number>`: numbers of another instance, or from before what is kept, cannot be gone on from, and the
listener is told of a gap, so that it reads everything again.
"""

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from control.api.views import STATUS, shown_time
from health.model import NodeStatus

KEPT = 1000
QUEUE = 256
MOST_STREAMS = 100
LONGEST = 8192
UNKEPT = frozenset({"scores"})  # once a second, and worth nothing afterwards
_HIDDEN = frozenset({"schema", "mark"})
_NAMES = frozenset("abcdefghijklmnopqrstuvwxyz_")


class TooManyError(Exception):
    """No more streams are taken by this instance."""


class Stream:
    """One listener. `next` gives what to send; it ends when the stream is closed or its reader was too slow.

    `sending` is for its owner to set while it waits for the reader: closed meanwhile, the stream is cut by `cut`.
    """

    def __init__(self, who: str, first: list[bytes]) -> None:
        self.who = who
        self.slow = False
        self.sending = False
        self.cut: Callable[[], None] = lambda: None
        self.closed = asyncio.Event()
        self._waiting: deque[bytes] = deque(first)
        self._more = asyncio.Event()
        if first:
            self._more.set()

    def push(self, frame: bytes) -> None:
        if len(self._waiting) >= QUEUE:
            self.slow = True
            self.close()
            return
        self._waiting.append(frame)
        self._more.set()

    def close(self) -> None:
        self.closed.set()
        self._more.set()
        if self.sending or self.slow:
            self.cut()

    async def next(self, within: float) -> bytes | None:
        """All that waits, empty after `within` seconds of silence; None at the end."""
        try:
            async with asyncio.timeout(within):
                await self._more.wait()
        except TimeoutError:
            return b""
        if self.closed.is_set():
            return None
        self._more.clear()
        frames = b"".join(self._waiting)
        self._waiting.clear()
        return frames


class Streams:
    """The listeners of one API instance, and the last events. `wall` gives Unix seconds."""

    def __init__(self, most: int = MOST_STREAMS, wall: Callable[[], float] = time.time) -> None:
        self._most = most
        self._wall = wall
        self._instance = secrets.token_hex(4)
        self._number = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._open: set[Stream] = set()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, who: str, last_id: str) -> Stream:
        """A stream for `who` that goes on after `last_id`, or begins now where that is empty. Raises TooManyError."""
        if len(self._open) >= self._most:
            raise TooManyError
        stream = Stream(who, list(self._since(last_id)) if last_id else [])
        self._open.add(stream)
        return stream

    def shut(self, stream: Stream) -> None:
        """`stream` has ended."""
        self._open.discard(stream)
        self.dropped += stream.slow

    def close(self, who: str | None = None) -> None:
        """End all streams, or those of one principal."""
        for stream in list(self._open):
            if who in (None, stream.who):
                stream.close()

    def heard(self, event: dict[str, Any] | None) -> None:
        """An event was published; None: some may have been missed."""
        self._number += 1
        kind, data = told(event or {"kind": "gap"}, self._wall())
        frame = self._frame(self._number, kind, data)
        if kind not in UNKEPT:
            self._kept.append((self._number, frame))
        for stream in list(self._open):
            stream.push(frame)
        if event is not None and event.get("kind") == "token":
            self.close(f"token:{event.get('subject')}")

    def _since(self, last_id: str) -> Iterator[bytes]:
        instance, _, text = last_id.rpartition("-")
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
        oldest = self._kept[0][0] if len(self._kept) == KEPT else 1
        if instance != self._instance or not oldest - 1 <= number <= self._number:
            _, data = told({"kind": "gap"}, self._wall())
            yield self._frame(self._number, "gap", data)
            return
        yield from (frame for at, frame in self._kept if at > number)

    def _frame(self, number: int, kind: str, data: str) -> bytes:
        return f"id: {self._instance}-{number}\nevent: {kind}\ndata: {data}\n\n".encode()


def told(event: dict[str, Any], now: float) -> tuple[str, str]:
    """Name and JSON of an event as clients get it. A node's status is that of the API, `state` the finer one."""
    kind = str(event.get("kind", ""))
    kind = kind if kind and set(kind) <= _NAMES else "message"
    if kind == "gap":
        event = {"kind": kind, "reason": "events may have been missed: read again what you need"}
    shown = {"kind": kind, "at": shown_time(now)} | {k: v for k, v in event.items() if k not in _HIDDEN | {"kind"}}
    if kind == "node" and shown.get("status") in list(NodeStatus):
        shown |= {"state": shown["status"], "status": STATUS[NodeStatus(shown["status"])]}
    data = json.dumps(shown, separators=(",", ":"))
    if len(data) > LONGEST:
        subject = str(event.get("subject", ""))[:200]
        data = json.dumps({"kind": kind, "at": shown["at"], "subject": subject}, separators=(",", ":"))
    return kind, data

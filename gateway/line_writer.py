"""The way all lines of a gateway process leave it: never in the way of traffic.

Lines are collected in the event loop and written by one thread, a batch about every 100 ms. Where the reader is slow
or stuck, the disk full or the pipe closed, lines are dropped and counted; memory stays bounded. Knows nothing of what
the lines say.
"""

import asyncio
import os
import queue
import select
import stat
import threading

LINES_HELD = 10_000
BATCH_S = 0.1
BATCH_LINES = 256
_FILE_CHUNK = 65_536
_CLOSE_S = 1.0
_WAIT_S = 0.1


class LineWriter:
    """Writes lines to the descriptor `fd` from a thread of its own. Text in, as to a stream; it never blocks.

    Made and used in the thread of the running event loop; `write` from other threads too.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._batches: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        # Counted by one thread each, so that no lock is needed: lines handed over; lines written or given up.
        self._handed, self._settled = 0, 0
        self._refused, self._failed = 0, 0
        self._torn = False
        # Of several writers to a pipe, what is longer than PIPE_BUF may be mixed up (pipe(7)).
        self._chunk = _FILE_CHUNK if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
        self._thread = threading.Thread(target=self._write_batches, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written: too many waited, or the system refused them."""
        return self._refused + self._failed

    def add(self, line: str) -> None:
        """Take one whole line, with its line feed. In the event loop's thread only."""
        lines = self._lines
        if len(lines) >= LINES_HELD - (self._handed - self._settled):
            self._refused += 1
            return
        lines.append(line)
        if self._timer is None:
            self._timer = self._loop.call_later(BATCH_S, self._on_timer)
        elif not len(lines) % BATCH_LINES:
            self._hand_over()

    def write(self, text: str) -> None:
        """As a stream has it: for loggers. `text` is one or more whole lines."""
        if threading.get_ident() == self._loop_thread:
            self.add(text)
        else:
            self._loop.call_soon_threadsafe(self.add, text)

    def flush(self) -> None:
        """As a stream has it; lines are written within 100 ms in any case."""

    def isatty(self) -> bool:
        """Whether a human reads along."""
        return os.isatty(self._fd)

    def close(self) -> None:
        """Write what is left, for one second at the most. Lines added later are lost."""
        if self._timer is not None:
            self._timer.cancel()
        self._put()
        self._batches.put(None)
        self._thread.join(_CLOSE_S)

    def _on_timer(self) -> None:
        self._timer = None
        self._hand_over()
        if self._lines:
            self._timer = self._loop.call_later(BATCH_S, self._on_timer)

    def _hand_over(self) -> None:
        if self._lines and self._handed == self._settled:  # one batch at a time
            self._put()

    def _put(self) -> None:
        lines, self._lines = self._lines, []
        self._handed += len(lines)
        self._batches.put(lines)

    def _write_batches(self) -> None:
        while (lines := self._batches.get()) is not None:
            self._failed += self._write_lines(lines)
            self._settled += len(lines)

    def _write_lines(self, lines: list[str]) -> int:
        """Write all; the number of lines that could not be."""
        failed = first = size = 0
        encoded = [line.encode(errors="backslashreplace") for line in lines]
        for last, line in enumerate(encoded):
            if size and size + len(line) > self._chunk:
                failed += self._write_chunk(encoded[first:last])
                first, size = last, 0
            size += len(line)
        return failed + self._write_chunk(encoded[first:])

    def _write_chunk(self, lines: list[bytes]) -> int:
        rest = memoryview(b"\n" + b"".join(lines) if self._torn else b"".join(lines))
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:  # somebody else made it non-blocking
                    select.select([], [self._fd], [], _WAIT_S)
        except OSError:
            # Whole lines have gone out, perhaps, and a piece of one: the next line that can be written begins anew.
            left = len(rest)
            kept = 0
            for line in reversed(lines):
                if left <= 0:
                    break
                left -= len(line)
                kept += 1
            self._torn = left < 0
            return kept
        self._torn = False
        return 0

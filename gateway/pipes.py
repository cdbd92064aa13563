"""Kernel pipes for splice(2), made on demand and used again. Knows nothing of what flows through them."""

import os
from fcntl import F_SETPIPE_SZ, fcntl

PIPE_SIZE = 1024 * 1024
"""Bytes a pipe holds: what an unprivileged user may ask for (pipe(7))."""


class PipePool:
    """`limit` is the most that may exist at once."""

    def __init__(self, limit: int = 32) -> None:
        self._free: list[tuple[int, int]] = []
        self.limit = self._left = limit

    def take(self) -> tuple[int, int] | None:
        """A pipe, or None when the limit is reached, ours or that of pipe-user-pages-soft (pipe(7))."""
        if self._free:
            return self._free.pop()
        if self._left == 0:
            return None
        try:
            ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl(ends[0], F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:  # the user has no room for more; a small one costs more than it saves
            os.close(ends[0])
            os.close(ends[1])
            return None
        self._left -= 1
        return ends

    def give_back(self, pipe: tuple[int, int]) -> None:
        """Return an *empty* pipe."""
        self._free.append(pipe)

    def discard(self, pipe: tuple[int, int]) -> None:
        """Close a pipe that still holds bytes."""
        os.close(pipe[0])
        os.close(pipe[1])
        self._left += 1

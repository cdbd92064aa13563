"""Signals as something a selector can wait for."""

import os
import signal
from types import FrameType


class Wake:
    """SIGCHLD, SIGTERM and SIGINT make `reader` readable; the latter two also set `stopped`. Only one at a time."""

    def __init__(self) -> None:
        self.stopped = False
        self._noted = False
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def note(self) -> None:
        """To be called when `reader` is readable."""
        try:
            self._noted = bool(os.read(self.reader, 4096)) or self._noted
        except BlockingIOError:
            pass

    def noted(self) -> bool:
        """Whether a signal was noted since the last call."""
        noted, self._noted = self._noted, False
        return noted

    def close(self) -> None:
        """Give the signals back their default handling."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.close(self.reader)
        os.close(self._writer)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True

"""Where a process writes its lines."""

from typing import Protocol


class Stream(Protocol):
    """Where lines go: the part of a text stream that loggers use."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...

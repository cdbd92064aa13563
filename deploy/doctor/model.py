"""What a check is and what it finds. Knows no check in particular."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

F = TypeVar("F")


class Result(StrEnum):
    """From good to bad, but for `skipped`, which says nothing."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """`reason` is what was seen, `meaning` what follows from it, `mend` the very command or setting that mends it."""

    check: str
    result: Result
    reason: str
    meaning: str = ""
    mend: str = ""


class Looked(Protocol):
    """A check, whatever it looks at."""

    @property
    def name(self) -> str: ...

    def run(self) -> list[Finding]: ...


@dataclass(frozen=True, slots=True)
class Check(Generic[F]):
    """`look` gathers facts, `judge` (pure) says what they mean. An OSError of `look` is a finding, too."""

    name: str
    look: Callable[[], F]
    judge: Callable[[F], Iterable[Finding]]

    def run(self) -> list[Finding]:
        try:
            return list(self.judge(self.look()))
        except OSError as error:
            return [failed(self.name, f"could not be looked at: {error.strerror or error}")]
        except Exception as error:
            # The others are worth having even where one has a fault of its own.
            return [failed(self.name, f"the check itself broke: {type(error).__name__}", "This is a fault of vpnexit.")]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A check that makes no sense here."""

    name: str
    reason: str

    def run(self) -> list[Finding]:
        return [skipped(self.name, self.reason)]


def ok(check: str, reason: str) -> Finding:
    return Finding(check, Result.OK, reason)


def skipped(check: str, reason: str) -> Finding:
    return Finding(check, Result.SKIPPED, reason)


def warning(check: str, reason: str, meaning: str = "", mend: str = "") -> Finding:
    return Finding(check, Result.WARNING, reason, meaning, mend)


def failed(check: str, reason: str, meaning: str = "", mend: str = "") -> Finding:
    return Finding(check, Result.FAILED, reason, meaning, mend)

"""What PID 1 expects of a VPN program, whichever it is."""

import selectors
from dataclasses import dataclass
from typing import Protocol

from health.agent.protocol import Ended


class Failure(Exception):
    """The container has to end: with which status, and why in plain words."""

    def __init__(self, ended: Ended, reason: str) -> None:
        super().__init__(reason)
        self.ended = ended
        self.reason = reason


@dataclass(slots=True)
class Link:
    """The VPN program's own view. `up`: it says it is connected; whether bytes pass, the agent's probe finds out."""

    up: bool
    reason: str
    dns: tuple[str, ...] = ()
    handshake_age_s: float | None = None


class Program(Protocol):
    """One VPN program. `failure` says why it is about to end, if it told."""

    link: Link
    failure: Failure | None

    def start(self, selector: selectors.BaseSelector, output: int) -> int:
        """Start it, its output going to `output`; its process id. What it reads is registered with a callable."""

    def tick(self) -> None:
        """Called once a second."""

    def stop(self) -> bool:
        """Ask it to end in good order; False where there is no such thing."""

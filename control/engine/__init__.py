"""The container engine as the reconciler needs it. `docker` implements it; tests have one of their own."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from control.model import Container


class EngineError(Exception):
    """The engine refused, in plain words."""


class EngineGoneError(EngineError):
    """The engine does not answer. What runs goes on running."""


class NameTakenError(EngineError):
    """A container of that name exists already."""


class NotFoundError(EngineError):
    """No such container."""


class ImageMissingError(EngineError):
    """The exit image is not there."""


class Engine(Protocol):
    """Containers of our fleet; all others are invisible. Every method raises EngineError within a time-out."""

    async def containers(self) -> list[Container]: ...

    async def create(self, name: str, body: dict[str, Any]) -> str:
        """Create a container from an Engine API body; returns its id."""
        ...

    async def start(self, container_id: str) -> None:
        """Start a container; one that runs already is left alone."""
        ...

    async def stop(self, container_id: str, grace: float) -> None:
        """Ask a container to end, kill it after `grace` seconds; returns when it ended. No error where it had ended."""
        ...

    async def remove(self, container_id: str) -> None:
        """Remove a container, running or not; one that is gone is no error."""
        ...

    async def logs(self, container_id: str, lines: int) -> str:
        """The last `lines` lines of output."""
        ...

    def events(self) -> AsyncIterator[str]:
        """Something changed: the node id, or an empty string once subscribed. Ends with EngineError."""
        ...

    async def close(self) -> None: ...

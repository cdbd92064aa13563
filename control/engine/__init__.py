"""The containers of a fleet as the reconciler needs them. `docker` implements it for one machine; tests have their own.

Nothing here or above knows how many machines an engine reaches: each node's record names the one it is placed on, each
container the one it is on. What a container's body mounts stands in control's own directories; an engine of other
machines sees to it that they have it, and that the agent's socket is reached where the record says.
"""

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

    @property
    def machines(self) -> frozenset[str]:
        """The machines it reaches; nodes of others are somebody else's."""
        ...

    async def containers(self) -> list[Container]:
        """Those of all machines. Where one of these does not answer, EngineGoneError: half a list would end nodes."""
        ...

    async def create(self, name: str, body: dict[str, Any], machine: str) -> str:
        """Create a container from an Engine API body on `machine`; returns its id, which is unique among all machines.

        Raises NameTakenError where any machine has that name already.
        """
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

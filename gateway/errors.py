"""What a node can do wrong, and what a name can."""

from health.reasons import Reason


class LinkError(Exception):
    """The node could not do its part: its fault, another node may be tried."""


class DoubtfulError(LinkError):
    """It failed after the target was named, and nothing says that it was the target: another node may be tried. The
    node is to blame only if another one then reaches the target.
    """


class LookupFailedError(Exception):
    """The name could not be resolved: `reason` says how."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class ClientGoneError(Exception):
    """The client closed before it had asked for anything."""

"""What the handlers work with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from control.engine import Engine
from control.fleet import Fleet
from control.nodefiles import NodeFiles
from control.providers import Provider
from control.reconcile import Reconciler
from health.registry import Registry


@dataclass(frozen=True, slots=True)
class Context:
    """One API's surroundings. `changed` wakes the reconciler."""

    fleet: Fleet
    registry: Registry
    reconciler: Reconciler
    files: NodeFiles
    providers: Mapping[str, Provider]
    default_provider: str
    changed: Callable[[], None]
    engine: Engine | None = None


CONTEXT = web.AppKey("context", Context)


def context(request: web.Request) -> Context:
    """The context of the application that serves `request`."""
    return request.app[CONTEXT]

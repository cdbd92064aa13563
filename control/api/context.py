"""What the handlers work with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from control.engine import Engine
from control.fleet import Fleet
from control.nodefiles import NodeFiles
from control.providers import Provider
from control.reconcile import Reconciler
from health.config import SpeedTestSettings
from health.registry import Registry

if TYPE_CHECKING:
    from control.api.board import Board
    from control.api.feed import Feed
    from control.api.gate import Gate
    from control.api.gateways import Gateways
    from control.api.metrics import Metrics
    from control.api.streams import Streams


@dataclass(frozen=True, slots=True)
class Context:
    """One API's surroundings. `changed` wakes the reconciler.

    `gateways` are the addresses of gateways' metrics, which take `metrics_token` if it is not empty; `certificates` are
    files whose end is shown.
    """

    fleet: Fleet
    registry: Registry
    reconciler: Reconciler
    files: NodeFiles
    providers: Mapping[str, Provider]
    default_provider: str
    changed: Callable[[], None]
    engine: Engine | None = None
    gateways: tuple[str, ...] = ()
    metrics_token: str = ""
    certificates: tuple[Path, ...] = ()
    metrics_open: bool = False
    speed: SpeedTestSettings = field(default_factory=SpeedTestSettings)


@dataclass(frozen=True, slots=True)
class Parts:
    """What one API instance remembers: caches and bounded tables, nothing that another instance would miss."""

    feed: "Feed"
    board: "Board"
    gate: "Gate"
    streams: "Streams"
    metrics: "Metrics"
    gateways: "Gateways"


CONTEXT = web.AppKey("context", Context)
PARTS = web.AppKey("parts", Parts)
REQUEST_ID = web.RequestKey("request_id", str)

"""What PID 1 tells the agent through a pipe, one JSON line each time: always the whole picture, never a change."""

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Report:
    """The VPN program as PID 1 sees it. `link` is whether it says that it is connected; `dns` the tunnel's name
    servers; `handshake_age_s` is None where the protocol tells none. `probe_name`, `targets` and `insights_url` are
    node.json's."""

    node: str
    probe_name: str
    link: bool
    reason: str
    dns: tuple[str, ...]
    kill_switch: bool
    handshake_age_s: float | None
    targets: tuple[str, ...] = ()
    insights_url: str = ""

    def line(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"


def read(line: bytes) -> Report:
    """What `Report.line` wrote; the two ends come out of one image."""
    raw: dict[str, Any] = json.loads(line)
    return Report(**{**raw, "dns": tuple(raw["dns"]), "targets": tuple(raw["targets"])})

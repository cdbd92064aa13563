"""Waiting until what was asked for is there: judgements about nodes and pools (pure), and the loop around them.

What is waited for is told on standard error: a line that changes on a terminal, else a line for every change.
"""

import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from deploy.api_client import ApiError, UnreachableError
from deploy.commands.output import harmless, note

POLL_S = 0.5
Document = Mapping[str, Any]

Wait = Annotated[bool, typer.Option("--wait", metavar="", help="Return only when it serves, or failed.")]
Timeout = Annotated[
    int, typer.Option("--timeout", metavar="SECONDS", min=1, max=3600, help="How long --wait waits at most.")
]


@dataclass(frozen=True, slots=True)
class Stand:
    """How far it is. `failed` is final, as `done` is; else it goes on."""

    text: str
    done: bool = False
    failed: bool = False


def node_stand(node: Document) -> Stand:
    """Of a node that shall serve."""
    state, reason = str(node.get("state") or node["status"]), str(node.get("reason") or "")
    text = f"{node['id']} is {state}" + (f": {reason}" if reason else "")
    if state in ("serving", "running"):
        return Stand(f"{node['id']} serves" + (f" from {node['exit_ip']}" if node.get("exit_ip") else ""), done=True)
    return Stand(text, failed=state in ("failed", "error", "draining", "stopping", "stopped"))


def pool_stand(pool: Document) -> Stand:
    """Of a pool that shall have what is desired: no less serving, and nothing more there."""
    serving, desired, there = int(pool["serving"]), int(pool["desired"]), len(pool["nodes"])
    text = f"{pool['country']}: {serving} of {desired} serving"
    if there > desired:
        text += f", {there - desired} to go"
    reason = str(pool.get("reason") or "")
    return Stand(f"{text}: {reason}" if reason else text, done=serving == desired == there)


def rotation_stand(pool: Document, old: Collection[str]) -> Stand:
    """Of a pool whose nodes, `old`, shall all be replaced."""
    stand, left = pool_stand(pool), len(set(pool["nodes"]) & set(old))
    return Stand(f"{stand.text}; {left} old left" if left else stand.text, done=stand.done and not left)


def speed_stand(test: Document) -> Stand:
    """Of a speed test."""
    if test["status"] == "failed":
        return Stand(f"{test['node_id']}: the speed test failed: {test['error']}", failed=True)
    if test["status"] != "done":
        return Stand(f"the speed test of {test['node_id']} is {test['status']}")
    down, up, ms = (test[name] for name in ("download_mbps", "upload_mbps", "latency_ms"))
    latency = "" if ms is None else f", {ms:.1f} ms"
    return Stand(f"{test['node_id']}: {down:.1f} Mbit/s down, {up:.1f} Mbit/s up{latency}", done=True)


def until(
    look: Callable[[], Document],
    judge: Callable[[Document], Stand],
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Document, Stand]:
    """Ask until `judge` says done or failed. An API that goes away meanwhile is asked again until `timeout` seconds.

    Raises:
        ApiError: it is not there after `timeout` seconds (with how far it is), or the API refuses.
    """
    deadline = clock() + timeout
    tell = _Teller()
    with tell:
        while True:
            try:
                document = look()
                stand = judge(document)
                if stand.done or stand.failed:
                    return document, stand
            except UnreachableError as error:
                stand = Stand(str(error))
            left = deadline - clock()
            if left <= 0:
                raise ApiError(f"after {timeout:g} s {stand.text}")
            tell(stand.text, left)
            sleep(min(POLL_S, left))


class _Teller:
    """Shows how far it is, on standard error."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._status = console.status("") if sys.stderr.isatty() else None
        self._last = ""

    def __enter__(self) -> None:
        (self._status or nullcontext()).__enter__()

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, text: str, left: float) -> None:
        if self._status is not None:
            self._status.update(Text(f"{harmless(text)} (up to {left:.0f} s more)"))
        elif text != self._last:
            note(text)
        self._last = text

"""`vpnexit events`: what happens in the fleet, as it happens; over lost connections, too."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from deploy import sse
from deploy.api_client import ApiError, UnreachableError
from deploy.commands import output
from deploy.commands.ask import FLEET, Ask, command
from health.process import Backoff

PATH = "/api/events"
_PAUSES = Backoff(first=1.0, longest=5.0, settled=10.0)


def add_to(app: typer.Typer) -> None:
    """Make it a command of `app`."""
    command(app, "events", "vpnexit events --json | jq .", panel=FLEET)(events)


def events(
    ask: Ask,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after so many events.", show_default=False)
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", metavar="", help="Also `scores`, of which there is one every second.")
    ] = False,
) -> None:
    """Show events as they happen, until Ctrl-C. With --json, a line for each.

    A connection that is lost is made again, and nothing is told twice.
    """
    console = Console(highlight=False)
    wanted = (event for event in follow(ask.api.events) if scores or event.kind != "scores")
    for seen, event in enumerate(wanted, 1):
        if ask.as_json:
            output.json_line(_document(event))
        else:
            console.print(_line(event), soft_wrap=True)
        if seen == count:
            return


def follow(
    connect: Callable[[str, str], Iterator[sse.Event]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[sse.Event]:
    """Events without end. Raises ApiError where the API refuses, or was not there in the first place."""
    last_id, pause, reached = "", 0.0, False
    while True:
        began = clock()
        why = "the API ended the stream"
        try:
            for event in connect(PATH, last_id):
                reached, last_id = True, event.id
                yield event
            reached = True
        except UnreachableError as error:
            if not reached:
                raise
            why = str(error)
        except ApiError as error:
            if not reached or error.status not in (429, 502, 503, 504):
                raise
            why = str(error)
        pause = _PAUSES.next(pause, clock() - began)
        output.note(f"vpnexit: {why}; asking again")
        sleep(pause)


def _document(event: sse.Event) -> dict[str, Any]:
    """One event for programs: id, event, data."""
    return {"id": event.id, "event": event.kind, "data": _data(event)}


def _line(event: sse.Event) -> Text:
    """One event for people: when, what, and its fields."""
    data = _data(event)
    if not isinstance(data, dict):
        return Text(f"{output.harmless(event.kind)}  {output.shown(data)}")
    rest = {name: value for name, value in data.items() if name not in ("kind", "at")}
    when = _clock(data.get("at"))
    line = Text()
    line.append(f"{when}  ", "dim")
    line.append(f"{output.harmless(event.kind):<14}  ", "bold")
    for name, value in rest.items():
        text = output.shown(value)
        if text:
            line.append(f"{output.harmless(name)}=", "dim")
            line.append(f"{text} ", output.STYLES.get(text, ""))
    line.rstrip()
    return line


def _clock(value: Any) -> str:
    """Local time of day, of seconds or an ISO time; now where an event has none."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(float(value))
    except (ValueError, TypeError, OverflowError, OSError):
        moment = datetime.now()
    return moment.astimezone().strftime("%H:%M:%S")


def _data(event: sse.Event) -> Any:
    try:
        return json.loads(event.data)
    except (ValueError, RecursionError):
        return event.data

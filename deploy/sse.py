"""Server-sent events, as WHATWG's HTML standard (section 9.2.6) has them: lines in, events out. Pure, and bounded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LONGEST_LINE = 1024 * 1024
LONGEST_EVENT = 4 * LONGEST_LINE


class StreamError(ValueError):
    """The stream is not one of events, or an event is larger than we take."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `id` is the last id the stream gave, also where this event has none of its own."""

    kind: str
    data: str
    id: str = ""


def parse(lines: Iterable[bytes], last_id: str = "") -> Iterator[Event]:
    """Events of a stream that is read line by line; a last one without its empty line is dropped.

    Raises:
        StreamError: a line or an event is too long. (Bytes that are no UTF-8 are replaced, as the standard says.)
    """
    data: list[str] = []
    kind, size = "", 0
    for raw in lines:
        if len(raw) > LONGEST_LINE or size > LONGEST_EVENT:
            raise StreamError("an event is larger than 4 MiB")
        line = raw.decode(errors="replace").rstrip("\r\n")
        if not line:
            if data:
                yield Event(kind or "message", "\n".join(data), last_id)
            kind, data, size = "", [], 0
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
            size += len(raw)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value

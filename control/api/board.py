"""The fleet as the API shows it, kept ready to be sent.

Read again when an event says that something changed, and at the latest after MAX_AGE_S (samples change without an
event, scores with one every second). Nothing is remembered while no events are heard. Readers of one moment wait for
one read together.
"""

import asyncio
import gzip
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web

from control.api.feed import Feed
from control.api.ready import Prepared
from control.api.views import STATUS, node_view
from control.fleet import Fleet
from health.model import Node, Sample
from health.registry import Registry, Snapshot

MAX_AGE_S = 2.0
QUIET = frozenset({"audit", "user", "token"})  # what does not show in here
_PACKED_FROM = 1024


@dataclass(frozen=True, slots=True)
class Body:
    """A list of nodes, ready to be sent in each of its forms. `packed` is by gzip, where that gains something."""

    etag: str
    plain: Prepared
    packed: Prepared
    unchanged: Prepared

    @classmethod
    def of(cls, text: bytes, total: int) -> "Body":
        """`text` is JSON; `total` is how many there are without limit and offset."""
        etag = f'"{hashlib.blake2b(text, digest_size=12).hexdigest()}"'
        fields = {"ETag": etag, "Vary": "Accept-Encoding", "X-Total-Count": str(total), "Cache-Control": "no-cache"}
        unchanged = Prepared.of(HTTPStatus.NOT_MODIFIED, fields, b"")
        fields["Content-Type"] = "application/json; charset=utf-8"
        plain = packed = Prepared.of(HTTPStatus.OK, fields, text)
        if len(text) >= _PACKED_FROM:
            fields["Content-Encoding"] = "gzip"
            packed = Prepared.of(HTTPStatus.OK, fields, gzip.compress(text, compresslevel=6, mtime=0))
        return cls(etag, plain, packed, unchanged)

    def asked_by(self, request: web.Request) -> Prepared:
        """The form that `request` takes (RFC 9110, 13.1.2 and 12.5.3)."""
        asked = request.headers
        known = asked.get(hdrs.IF_NONE_MATCH)
        if known is not None and (known == "*" or self.etag in known):
            return self.unchanged
        return self.packed if "gzip" in asked.get(hdrs.ACCEPT_ENCODING, "") else self.plain


@dataclass(frozen=True, slots=True)
class Picture:
    """One reading of the fleet. `nodes` are in the order of the list, each with its JSON."""

    snapshot: Snapshot
    samples: dict[str, Sample]
    nodes: tuple[tuple[Node, bytes], ...]
    everything: Body
    made_at: float = field(compare=False)

    def some(self, country: str | None, status: str | None) -> list[bytes]:
        """The JSON of the nodes of a country and status; None for any."""
        return [
            text
            for node, text in self.nodes
            if country in (None, node.country) and status in (None, STATUS[node.status])
        ]


class Board:
    """The last picture. `clock` gives monotonic seconds."""

    def __init__(
        self, fleet: Fleet, registry: Registry, feed: Feed, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fleet = fleet
        self._registry = registry
        self._feed = feed
        self._clock = clock
        self._changes = 0
        self._shows = -1
        self._picture: Picture | None = None
        self._reading: asyncio.Task[Picture] | None = None
        self.readings = 0
        feed.listen(self._heard)

    def forget(self) -> None:
        """Something changed."""
        self._changes += 1

    async def picture(self) -> Picture:
        """The fleet now. Raises UnavailableError or RegistryError."""
        known, wanted = self.fresh(), self._changes
        while known is None:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read(), name="fleet picture")
            known = await asyncio.shield(self._reading)
            if self._shows < wanted:  # joined a reading that had begun before the change
                known = None
        return known

    def fresh(self) -> Picture | None:
        """The last picture, if nothing has changed since."""
        found = self._picture
        if found is None or self._shows != self._changes or not self._feed.alive:
            return None
        return found if self._clock() - found.made_at < MAX_AGE_S else None

    async def _read(self) -> Picture:
        changes, made_at = self._changes, self._clock()
        snapshot = await self._fleet.snapshot()
        samples = await self._registry.samples(snapshot.nodes)
        picture = picture_of(snapshot, samples, made_at)
        self._picture, self._shows = picture, changes
        self.readings += 1
        return picture

    def _heard(self, event: dict[str, Any] | None) -> None:
        if event is None or event.get("kind") not in QUIET:
            self.forget()


def picture_of(snapshot: Snapshot, samples: dict[str, Sample], made_at: float) -> Picture:
    """Everything that can be made of one reading."""
    nodes = sorted(snapshot.nodes.values(), key=lambda node: (node.country, node.requested_at, node.id))
    texts = tuple(
        (node, node_view(node, samples.get(node.id), snapshot.scores.get(node.id)).model_dump_json().encode())
        for node in nodes
    )
    everything = Body.of(joined([text for _, text in texts]), len(texts))
    return Picture(snapshot, samples, texts, everything, made_at)


def joined(texts: list[bytes]) -> bytes:
    """A JSON array of `texts`."""
    return b"[" + b",".join(texts) + b"]"

"""What `/metrics` says besides requests: pools, nodes, accounts, slots that wait, certificates, the engine."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control.api.context import Context
from control.certificates import valid_until
from control.counts import PREFIX
from health.registry import RegistryError, Snapshot
from health.registry.account_slots import Book

_LARGEST_FILE = 1024 * 1024


@dataclass(frozen=True, eq=False, slots=True)
class Numbers(Collector):
    """Read before they are shown. `snapshot` and `book` are None where Redis did not answer.

    `limits`: account -> sessions it may have; `waiting`: country -> slots that back off; `certificates`: file -> Unix
    seconds until which it is valid, None where that cannot be read.
    """

    snapshot: Snapshot | None
    book: Book | None
    engine_up: bool
    limits: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    certificates: Mapping[str, float | None] = field(default_factory=dict)

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(PREFIX + "engine_up", "Whether the container engine answers", float(self.engine_up))
        if self.snapshot is not None:
            yield from self._fleet(self.snapshot)
        if self.book is not None:
            yield from self._accounts(self.book)
        yield from self._certificates()

    def _fleet(self, snapshot: Snapshot) -> Iterator[Metric]:
        smallest = GaugeMetricFamily(PREFIX + "min_nodes", "Nodes a pool has at least", labels=("country",))
        largest = GaugeMetricFamily(PREFIX + "max_nodes", "Nodes a pool has at most", labels=("country",))
        waiting = GaugeMetricFamily(PREFIX + "slots_waiting", "Places of a pool that back off", labels=("country",))
        for country, pool in sorted(snapshot.pools.items()):
            smallest.add_metric((country,), pool.min)
            largest.add_metric((country,), pool.max)
            waiting.add_metric((country,), self.waiting.get(country, 0))
        nodes = GaugeMetricFamily(
            PREFIX + "node_status", "1 for the status that a node has", labels=("country", "node", "kind", "status")
        )
        for node in snapshot.nodes.values():
            nodes.add_metric((node.country, node.id, node.kind.value, node.status.value), 1)
        yield from (smallest, largest, waiting, nodes)

    def _accounts(self, book: Book) -> Iterator[Metric]:
        slots = GaugeMetricFamily(PREFIX + "account_slots", "Sessions an account may have", labels=("account",))
        used = GaugeMetricFamily(PREFIX + "account_slots_used", "Sessions in use", labels=("account",))
        resting = GaugeMetricFamily(
            PREFIX + "account_resting_seconds", "How long an account starts no node yet", labels=("account",)
        )
        for account, limit in sorted(self.limits.items()):
            slots.add_metric((account,), limit)
            used.add_metric((account,), len(book.held.get(account, {})))
            resting.add_metric((account,), book.resting[account][1] if account in book.resting else 0)
        yield from (slots, used, resting)

    def _certificates(self) -> Iterator[Metric]:
        until = GaugeMetricFamily(
            PREFIX + "certificate_expiry_timestamp_seconds", "When a certificate ends (Unix)", labels=("file",)
        )
        readable = GaugeMetricFamily(
            PREFIX + "certificate_readable", "Whether a certificate's file is understood", labels=("file",)
        )
        for file, at in self.certificates.items():
            readable.add_metric((file,), at is not None)
            if at is not None:
                until.add_metric((file,), at)
        yield from (until, readable)


async def numbers(here: Context, snapshot: Snapshot | None) -> Numbers:
    """What holds now; `snapshot` is the fleet, None where Redis does not answer. Never raises."""
    limits = {name: slots for one in here.providers.values() for name, slots in one.accounts().items()}
    try:
        book = await here.registry.accounts.read(limits)
    except RegistryError:
        book = None
    read = await asyncio.gather(*(asyncio.to_thread(_until, file) for file in here.certificates))
    return Numbers(
        snapshot=snapshot,
        book=book,
        engine_up=not here.reconciler.engine_trouble,
        limits=limits,
        waiting=Counter(slot.rpartition("-")[0] for slot in here.reconciler.waiting),
        certificates=dict(zip(map(str, here.certificates), read, strict=True)),
    )


def _until(file: Path) -> float | None:
    try:
        with file.open("rb") as stream:
            return valid_until(stream.read(_LARGEST_FILE).decode("ascii", "replace"))
    except (OSError, ValueError):
        return None

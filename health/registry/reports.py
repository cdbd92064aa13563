"""What gateway workers and agents told lately: everything that scores are made of.

A part of `health.registry`, which hands in its connection. Keys, below the registry's prefix:

    report:<worker>  what a gateway worker tells of its nodes (health.report); expires after 5 s
    reports          set of the workers that told something; who reads takes out those whose report has expired
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from health.model import Record, Sample, UnknownSchemaError
from health.report import Report

REPORT_TTL_S = 5
MOST_REPORTS = 1024
LONGEST_REPORT = 256 * 1024
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Told:
    """One reading. `unreadable_samples` are of these nodes: something is there, and no sample; `collectors` are the
    machines whose collector lives."""

    samples: dict[str, Sample] = field(default_factory=dict)
    unreadable_samples: frozenset[str] = frozenset()
    collectors: frozenset[str] = frozenset()
    reports: tuple[Report, ...] = ()
    unreadable_reports: int = 0


class Reports:
    """Every method raises RegistryError when Redis does not answer in time; `call` is what sees to that."""

    def __init__(self, client: Any, prefix: str, call: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._redis = client
        self._prefix = prefix
        self._call = call

    async def put(self, report: Report) -> None:
        """Tell it, in one round trip. To be repeated at least every 5 s."""
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            pipe.set(self._key("report", report.worker), report.dump(), ex=REPORT_TTL_S)
            pipe.sadd(self._prefix + "reports", report.worker)
            pipe.expire(self._prefix + "reports", REPORT_TTL_S)
            await pipe.execute()

    async def delete(self, worker: str) -> None:
        """The worker has ended."""
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            pipe.delete(self._key("report", worker))
            pipe.srem(self._prefix + "reports", worker)
            await pipe.execute()

    async def read(self, node_ids: Iterable[str], machines: Iterable[str]) -> Told:
        """Everything told of these nodes, in two round trips. Of more than 1,024 workers some are left out."""
        nodes, places = list(node_ids), list(machines)
        async with self._call():
            async with self._redis.pipeline(transaction=False) as pipe:
                # In this order: a sample that is missing was not written although its collector lived.
                pipe.mget([self._key("lease:collector", place) for place in places or [""]])
                pipe.mget([self._key("sample", node) for node in nodes or [""]])
                pipe.smembers(self._prefix + "reports")
                alive, samples, workers = await pipe.execute()
            known = sorted(cast(set[str], workers))[:MOST_REPORTS]
            texts = await self._redis.mget([self._key("report", worker) for worker in known]) if known else []
            silent = [worker for worker, text in zip(known, texts, strict=True) if text is None]
            if silent:  # one that is only late is put in again by its next report
                await self._redis.srem(self._prefix + "reports", *silent)
        found = {node: _load(Sample, text) for node, text in zip(nodes, samples, strict=False) if text is not None}
        told = [_load(Report, text) for text in texts if text is not None]
        reports = tuple(report for report in told if report is not None)
        return Told(
            {node: sample for node, sample in found.items() if sample is not None},
            frozenset(node for node, sample in found.items() if sample is None),
            frozenset(place for place, sign in zip(places, alive, strict=False) if sign is not None),
            reports,
            len(told) - len(reports),
        )

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"


def _load(kind: type[R], text: str) -> R | None:
    if len(text) > LONGEST_REPORT:
        return None
    try:
        return kind.load(text)
    except UnknownSchemaError:
        return None

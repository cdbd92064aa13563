"""Reports and samples in a real Redis."""

import json
from typing import Any

from health.model import Sample
from health.registry import PREFIX, Registry
from health.registry.reports import LONGEST_REPORT, MOST_REPORTS, REPORT_TTL_S
from health.report import Counts, Report

ONE, TWO = "0" * 16, "1" * 16


def report(worker: str, reached: int = 1) -> Report:
    return Report(worker=worker, gateway="m1:7", nodes={"jp000001": Counts(reached=reached)})


async def test_nothing_was_told(registry: Registry) -> None:
    told = await registry.reports.read([], [])
    assert (told.samples, told.collectors, told.reports) == ({}, frozenset(), ())


async def test_everything_told_is_read_in_one_go(registry: Registry, raw: Any) -> None:
    await registry.reports.put(report(ONE))
    await registry.reports.put(report(TWO, 5))
    await registry.reports.put(report(ONE, 2))
    await registry.put_samples("m1", [Sample(node="jp000001", at=1.0, reachable=True)])
    raw.set(PREFIX + "sample:jp000002", '{"schema": 1, "at": NaN}')
    told = await registry.reports.read(["jp000001", "jp000002", "jp000003"], {"m1", "m2"})
    assert told.samples.keys() == {"jp000001"}
    assert told.unreadable_samples == {"jp000002"}
    assert told.collectors == {"m1"}
    assert [one.nodes["jp000001"].reached for one in told.reports] == [2, 5]
    assert 0 < raw.pttl(PREFIX + f"report:{ONE}") <= REPORT_TTL_S * 1000


async def test_a_worker_that_is_gone_is_forgotten_and_one_that_is_late_comes_back(registry: Registry, raw: Any) -> None:
    await registry.reports.put(report(ONE))
    await registry.reports.put(report(TWO))
    raw.delete(PREFIX + f"report:{ONE}")
    assert len((await registry.reports.read([], [])).reports) == 1
    assert raw.smembers(PREFIX + "reports") == {TWO}
    await registry.reports.put(report(ONE))
    assert len((await registry.reports.read([], [])).reports) == 2
    await registry.reports.delete(ONE)
    await registry.reports.delete(TWO)
    assert not raw.exists(PREFIX + "reports", PREFIX + f"report:{ONE}", PREFIX + f"report:{TWO}")


async def test_nonsense_is_counted(registry: Registry, raw: Any) -> None:
    await registry.reports.put(report(ONE))
    long = json.dumps(json.loads(report(TWO).dump()) | {"more": "x" * LONGEST_REPORT})
    for worker, text in (("2" * 16, "{"), ("3" * 16, '{"schema": 2}'), (TWO, long)):
        raw.sadd(PREFIX + "reports", worker)
        raw.set(PREFIX + f"report:{worker}", text)
    told = await registry.reports.read([], [])
    assert [one.worker for one in told.reports] == [ONE]
    assert told.unreadable_reports == 3


async def test_endlessly_many_workers_cost_no_more_than_some(registry: Registry, raw: Any) -> None:
    pipe = raw.pipeline()
    for n in range(MOST_REPORTS + 50):
        pipe.sadd(PREFIX + "reports", f"{n:016x}")
        pipe.set(PREFIX + f"report:{n:016x}", report(f"{n:016x}").dump())
    pipe.execute()
    assert len((await registry.reports.read([], [])).reports) == MOST_REPORTS

"""What a worker tells of its nodes, and that a Redis that is gone costs nothing but reports."""

import asyncio
import json

from gateway.metrics import Metrics
from gateway.reporter import IDLE_REPORTS, Reporter
from health.config import RedisSettings
from health.model import Node
from health.reasons import Reason
from health.registry import Registry
from health.report import MOST_NODES, Counts
from tests.gateway.stub_fleet import StubFleet, node

TWO = [node("jp000001"), node("jp000002")]


def reporter(fleet: StubFleet, numbers: Metrics | None = None, registry: Registry | None = None) -> Reporter:
    return Reporter(registry or Registry.open(RedisSettings()), fleet, numbers or Metrics(), "m:7")


def test_counts_by_whose_fault() -> None:
    fleet, numbers = StubFleet(*TWO), Metrics()
    fleet.link("jp000001").load = 3
    fleet.roster.worked("jp000001", 0.25)
    fleet.roster.worked("jp000001", 0.125)
    fleet.failed("jp000001")
    numbers.first_byte("jp", "jp000001", 0.5)
    numbers.cut_off("jp000001")
    numbers.cut_off("jp000002")
    # A dial by a node that failed counts where the fleet was told whose fault it was, not by how it looked at first.
    for reason in (Reason.NODE_DIAL, Reason.REFUSED, Reason.TARGET_TIMEOUT, Reason.TARGET_FORBIDDEN):
        numbers.dial_failed("jp", "jp000001", reason)
    told = reporter(fleet, numbers)
    report = told.report()
    expected = Counts(
        reached=2,
        node_failures=1,
        target_failures=2,
        client_failures=1,
        dial_ms=375,
        first_bytes=1,
        first_byte_ms=500,
        in_flight=3,
        quickest_ms=125,
        turned_away=2,
    )
    # A new node is told of before it is used: so its first dials can be told from what was before.
    assert report.nodes == {"jp000001": expected, "jp000002": Counts(turned_away=1)}
    assert report.gateway == "m:7"
    again = told.report()
    assert again.worker == report.worker
    assert again.nodes["jp000001"] == expected._replace(quickest_ms=None)


def test_a_node_that_is_not_used_is_left_out_after_a_while() -> None:
    fleet = StubFleet(*TWO)
    fleet.roster.worked("jp000002", 0.1)
    told = reporter(fleet)
    lengths = [len(told.report().nodes) for _ in range(IDLE_REPORTS + 3)]
    assert lengths[0] == 2
    assert lengths[-1] == 0
    fleet.roster.worked("jp000002", 0.1)
    assert told.report().nodes["jp000002"].reached == 2


def test_it_is_bounded() -> None:
    many: list[Node] = [node(f"jp{n:06x}") for n in range(MOST_NODES + 20)]
    fleet = StubFleet(*many)
    for one in many:
        fleet.roster.worked(one.id, 0.123456)
    report = reporter(fleet).report()
    assert len(report.nodes) == MOST_NODES
    assert len(report.dump()) < 128 * 1024


async def test_reports_come_once_a_second_and_end_with_the_worker(registry: Registry) -> None:
    fleet = StubFleet(*TWO)
    fleet.roster.worked("jp000001", 0.1)
    told = reporter(fleet, registry=registry)
    running = asyncio.create_task(told.run())
    async with asyncio.timeout(30):
        while not (reports := (await registry.reports.read([], [])).reports):
            await asyncio.sleep(0.05)
    assert json.loads(reports[0].dump())["nodes"]["jp000001"][0] == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await told.close()
    assert (await registry.reports.read([], [])).reports == ()


async def test_without_redis_it_goes_on() -> None:
    registry = Registry.open(RedisSettings(url="unix:///nowhere/at/all.sock"))
    told = reporter(StubFleet(*TWO), registry=registry)
    running = asyncio.create_task(told.run())
    await asyncio.sleep(1.5)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await told.close()
    await registry.close()

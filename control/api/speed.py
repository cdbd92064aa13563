"""/api/speed-test: the original's paths.

Here tests are asked for and told of; the collector of the node's machine measures.
"""

import asyncio
from typing import Literal

from control.api.bodies import Empty, ResultsQuery, SpeedQuery
from control.api.context import Context
from control.api.errors import ApiError
from control.api.table import Answer, Call, Table
from control.api.views import Time, View, shown_time
from health.model import Node, NodeId, NodeKind, NodeStatus, Scope
from health.reasons import Reason
from health.speed import Result, Test

LOOK_S = 0.25
table = Table("speed test")


class SpeedView(View):
    """What a node's connection carries, in megabits per second of payload and milliseconds of TCP round trip.

    Null is what was not measured: not yet, or `error` says why, and `reason` in one word.
    """

    id: str
    node_id: NodeId
    country: str
    status: Literal["waiting", "running", "done", "failed"]
    download_mbps: float | None = None
    upload_mbps: float | None = None
    latency_ms: float | None = None
    tested_at: Time | None = None
    reason: Reason | None = None
    error: str = ""


@table.add(
    "POST",
    "/api/speed-test/{id}",
    "speed.test",
    scope=Scope.OPERATE,
    answer=SpeedView,
    statuses=(200, 202),
    refusals=(404, 409),
    query=SpeedQuery,
)
async def run_test(call: Call[Empty, SpeedQuery]) -> Answer:
    """Measure a node's speed

    Answers the result, or 202 where there is none after `wait` seconds: it will be in the results of the node, under
    the `id` answered. A test of the node that waits or runs already is waited for.
    """
    here = call.here
    node = await _testable(here, call.path["id"])
    test = await here.registry.speed.ask(node.machine, node.id, node.country)
    view = await _ended(here, node, test, call.query.wait)
    return Answer(view, status=200 if view.tested_at else 202)


@table.add("GET", "/api/speed-test/results", "speed.results", answer=list[SpeedView], query=ResultsQuery)
async def all_results(call: Call[Empty, ResultsQuery]) -> Answer:
    """The results of all nodes

    Newest first, of the last 30 days. X-Total-Count says how many there are without limit and offset.
    """
    machines = {node.machine for node in (await call.here.fleet.snapshot()).nodes.values()}
    return await _results(call, "", machines)


@table.add("GET", "/api/speed-test/results/{id}", "speed.result", answer=list[SpeedView], query=ResultsQuery)
async def node_results(call: Call[Empty, ResultsQuery]) -> Answer:
    """The results of one node

    Newest first, of the last 30 days, also of a node that is gone.
    """
    node = (await call.here.fleet.snapshot()).nodes.get(call.path["id"])
    return await _results(call, call.path["id"], {node.machine} if node is not None else set())


async def _results(call: Call[Empty, ResultsQuery], node: str, machines: set[str]) -> Answer:
    query, speed = call.query, call.here.registry.speed
    for machine in machines:
        await speed.settle(machine)
    found, total = await speed.results(node, limit=query.limit, offset=query.offset)
    return Answer([_view(result) for result in found], headers={"X-Total-Count": str(total)})


async def _testable(here: Context, node_id: str) -> Node:
    """The node, if it can be tested now. Raises ApiError."""
    node = (await here.fleet.snapshot()).nodes.get(node_id)
    if node is None:
        raise ApiError(404, "not_found", f"there is no node {node_id}")
    if node.kind is not NodeKind.VPN:
        what = f"{node_id} is of kind {node.kind.value}: only exits with a tunnel of our own are measured"
        raise ApiError(409, "not_measurable", what)
    if here.speed.urls is None:
        what = "no endpoint to measure against is configured: set speed_test.download_url and speed_test.upload_url"
        raise ApiError(409, "no_endpoint", what)
    if node.status is not NodeStatus.SERVING:
        raise ApiError(409, "not_serving", f"{node_id} is {node.status.value}: only nodes that serve are measured")
    if node.machine not in await here.registry.collectors([node.machine]):
        what = f"the collector of machine {node.machine}, which measures, does not answer: is it running?"
        raise ApiError(503, "no_collector", what)
    return node


async def _ended(here: Context, node: Node, test: Test, seconds: float) -> SpeedView:
    """The result of `test`, or how far it is after so many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        await here.registry.speed.settle(node.machine)
        result = await here.registry.speed.result(test.id)
        if result is not None:
            return _view(result)
        left = deadline - loop.time()
        if left <= 0:
            break
        await asyncio.sleep(min(LOOK_S, left))
    now = await here.registry.speed.find(node.machine, node.id)
    state = now.state if now is not None and now.id == test.id else test.state
    return SpeedView(id=test.id, node_id=node.id, country=node.country, status=state.value)


def _view(result: Result) -> SpeedView:
    return SpeedView(
        id=result.id,
        node_id=result.node,
        country=result.country,
        status="failed" if result.error else "done",
        download_mbps=result.download_mbps,
        upload_mbps=result.upload_mbps,
        latency_ms=result.latency_ms,
        tested_at=shown_time(result.at),
        reason=result.reason,
        error=result.error,
    )

"""/api/speed-test: the original's paths. Not measured yet, and it says so."""

from control.api.bodies import Empty, NoQuery
from control.api.errors import ApiError
from control.api.table import Call, Table
from control.api.views import Time, View
from health.model import Scope

table = Table("speed test")


class SpeedView(View):
    """What a node's connection carries."""

    node_id: str
    download_mbps: float
    upload_mbps: float
    latency_ms: float
    tested_at: Time


@table.add("POST", "/api/speed-test/{id}", "speed.test", scope=Scope.OPERATE, answer=SpeedView, refusals=(501,))
async def run_test(call: Call[Empty, NoQuery]) -> SpeedView:
    """Measure a node's speed (not available yet)"""
    raise _not_yet()


@table.add("GET", "/api/speed-test/results", "speed.results", answer=list[SpeedView], refusals=(501,))
async def all_results(call: Call[Empty, NoQuery]) -> list[SpeedView]:
    """The last results of all nodes (not available yet)"""
    raise _not_yet()


@table.add("GET", "/api/speed-test/results/{id}", "speed.result", answer=SpeedView, refusals=(501,))
async def one_result(call: Call[Empty, NoQuery]) -> SpeedView:
    """The last result of one node (not available yet)"""
    raise _not_yet()


def _not_yet() -> ApiError:
    return ApiError(501, "not_implemented", "speed tests are not built yet: a node's score tells how it is doing")

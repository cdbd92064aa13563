"""The table: what an operation takes is checked before its handler sees it, and what it answers has its type."""

import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from control.api.bodies import Empty, NoQuery, Query
from control.api.errors import ApiError
from control.api.gate import ADMIN
from control.api.table import Answer, Call, Table
from health.model import Scope


class Wanted(Query):
    """One number."""

    number: int = 7


def entered(**more: Any) -> Any:
    table = Table("things")

    @table.add("GET", "/things", "thing.list", answer=list[int], **more)
    async def things(call: Call[Empty, Any]) -> Answer:
        """All things

        Over
        two lines.
        """
        return Answer([call.query.number if isinstance(call.query, Wanted) else 0], headers={"ETag": '"1"'})

    (operation,) = table.operations
    return operation


async def run(operation: Any, path: str, **headers: str) -> Any:
    request = make_mocked_request("GET", path, headers=headers)
    response, _ = await operation.run(request, None, None, ADMIN)
    return response


def test_its_docstring_is_its_description() -> None:
    operation = entered(statuses=(200, 304))
    assert (operation.summary, operation.description) == ("All things", "Over two lines.")
    assert (operation.scope, operation.query, operation.changes) == (Scope.READ, NoQuery, False)
    assert operation.statuses == (200, 304)


async def test_it_answers_in_its_type() -> None:
    response = await run(entered(query=Wanted), "/things?number=3")
    assert (response.status, json.loads(response.body), response.headers["ETag"]) == (200, [3], '"1"')
    assert json.loads((await run(entered(query=Wanted), "/things")).body) == [7]


@pytest.mark.parametrize("query", ["number=x", "number=1&number=2", "other=1", "=1"])
async def test_a_wrong_query_never_reaches_it(query: str) -> None:
    with pytest.raises(ApiError) as refused:
        await run(entered(query=Wanted), f"/things?{query}")
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("field", "version"),
    [('"3"', "3"), ('W/"3"', "3"), ("*", None), (" * ", None), ("3", "3"), ('""', ""), (None, None)],
)
def test_if_match(field: str | None, version: str | None) -> None:
    request = make_mocked_request("PUT", "/things", headers={"If-Match": field} if field is not None else {})
    call: Call[Empty, NoQuery] = Call(request, None, None, ADMIN, {}, Empty(), NoQuery(), "")  # type: ignore[arg-type]
    assert call.if_match == version

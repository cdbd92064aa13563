"""`vpnexit events`: a stream that breaks is gone on with."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.api_client import ApiError, UnreachableError
from deploy.commands.events import follow
from deploy.sse import Event
from tests.deploy.commands.standin import StandIn


def event(number: int, **data: Any) -> str:
    return f"id: e-{number}\nevent: node\ndata: {json.dumps({'id': 'jp3f9a1c', **data})}\n\n"


def test_events_are_followed_over_a_lost_connection(standin: StandIn, cli: Any) -> None:
    standin.streams = [[": hello\n\n", event(1, status="verifying"), "id: e-2\nevent: half"], [event(2), event(3)]]
    done = cli("events", "--json", "--count", "3")
    assert done.returncode == 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["id"] for one in told] == ["e-1", "e-2", "e-3"]
    assert told[0] == {"id": "e-1", "event": "node", "data": {"id": "jp3f9a1c", "status": "verifying"}}
    assert [asked.headers.get("Last-Event-ID") for asked in standin.asked] == [None, "e-1"]
    assert done.stderr == "vpnexit: the API ended the stream; asking again\n"


def test_scores_are_shown_only_when_asked_for(standin: StandIn, cli: Any) -> None:
    stream = ["event: scores\ndata: {}\n\n", event(1)]
    standin.streams = [stream]
    assert json.loads(cli("events", "--json", "--count", "1").stdout)["event"] == "node"
    standin.streams = [stream]
    assert json.loads(cli("events", "--json", "--count", "1", "--scores").stdout)["event"] == "scores"


def test_events_for_people(standin: StandIn, cli: Any) -> None:
    standin.streams = [[event(1, status="failed", reason="a\x1b[2Jb [red]", at=0), "data: plain\n\n"]]
    first, second = cli("events", "--count", "2").stdout.splitlines()
    assert first.split(None, 1)[1] == "node            id=jp3f9a1c status=failed reason=a\\x1b[2Jb [red]"
    assert second == "message  plain"


def test_no_api_and_no_right(standin: StandIn, cli: Any) -> None:
    done = cli("events", "--api", "127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    standin.answers["GET /api/events"] = (403, {"detail": "this needs scope read", "status": 403, "reason": "scope"})
    done = cli("events")
    assert done.returncode == 1
    assert done.stderr.startswith("vpnexit: this needs scope read (403")
    standin.answers["GET /api/events"] = (200, {"not": "a stream"})
    assert cli("events").returncode == 3


class Api:
    """Connections that go as told: events, then an error."""

    def __init__(self, *connections: tuple[list[str], Exception | None]) -> None:
        self._connections = list(connections)
        self.asked: list[str] = []

    def __call__(self, path: str, last_id: str) -> Iterator[Event]:
        self.asked.append(last_id)
        ids, error = self._connections.pop(0)
        for one in ids:
            yield Event("node", "{}", one)
        if error is not None:
            raise error


def test_pauses_grow_while_nobody_answers() -> None:
    gone = UnreachableError("gone")
    api = Api((["1"], None), ([], gone), ([], gone), ([], ApiError("busy", 503)), (["2"], ApiError("no", 401)))
    pauses: list[float] = []
    stream = follow(api, clock=lambda: 0.0, sleep=pauses.append)
    assert [next(stream).id, next(stream).id] == ["1", "2"]
    with pytest.raises(ApiError, match="no"):
        next(stream)
    assert api.asked == ["", "1", "1", "1", "1"]
    assert pauses == [1, 2, 4, 5]

"""Events on their way: numbers, what is kept, and readers that are too slow."""

import json
from typing import Any

import pytest

from control.api import streams
from control.api.streams import KEPT, QUEUE, Streams, TooManyError, told


def frames(data: bytes | None) -> list[dict[str, Any]]:
    assert data is not None
    found = []
    for text in data.decode().split("\n\n"):
        if text:
            fields = dict(line.split(": ", 1) for line in text.split("\n"))
            found.append({"id": fields["id"], "event": fields["event"], **json.loads(fields["data"])})
    return found


def node(number: int) -> dict[str, Any]:
    return {"schema": 1, "kind": "node", "subject": f"jp{number:06x}", "status": "serving", "mark": "x"}


async def test_each_listener_gets_every_event_in_order() -> None:
    made = Streams(wall=lambda: 0.0)
    one, two = made.open("admin", ""), made.open("admin", "")
    made.heard(node(1))
    made.heard(node(2))
    for stream in (one, two):
        first, second = frames(await stream.next(1))
        assert first["id"] < second["id"]
        assert first == {
            "id": first["id"],
            "event": "node",
            "kind": "node",
            "at": "1970-01-01T00:00:00.000+00:00",
            "subject": "jp000001",
            "status": "running",
            "state": "serving",
        }
    assert await one.next(0.01) == b""


async def test_it_goes_on_after_the_last_one_seen() -> None:
    made = Streams()
    stream = made.open("admin", "")
    for number in range(5):
        made.heard(node(number))
    ids = [frame["id"] for frame in frames(await stream.next(1))]
    again = made.open("admin", ids[2])
    assert [frame["id"] for frame in frames(await again.next(1))] == ids[3:]
    assert await made.open("admin", ids[4]).next(0.01) == b""


@pytest.mark.parametrize("last", ["other-3", "nonsense", "-1", "{mine}-999999", "{mine}-", "{mine}-0"])
async def test_what_cannot_be_gone_on_from_is_a_gap(last: str) -> None:
    made = Streams()
    for number in range(KEPT + 5):
        made.heard(node(number))
    mine = vars(made)["_instance"]
    (gap,) = frames(await made.open("admin", last.replace("{mine}", mine)).next(1))
    assert gap["event"] == "gap"
    assert "read again" in gap["reason"]
    assert await made.open("admin", gap["id"]).next(0.01) == b"", "from there on it can be gone on"


async def test_a_lost_subscription_is_a_gap() -> None:
    made = Streams()
    stream = made.open("admin", "")
    made.heard(None)
    assert [frame["event"] for frame in frames(await stream.next(1))] == ["gap"]


async def test_a_slow_reader_is_dropped_and_the_others_are_not() -> None:
    made = Streams()
    slow, good = made.open("admin", ""), made.open("admin", "")
    for number in range(QUEUE + 1):
        made.heard(node(number))
        assert len(frames(await good.next(1))) == 1
    assert await slow.next(1) is None
    assert slow.slow
    made.shut(slow)
    assert (len(made), made.dropped) == (1, 1)


def test_there_are_only_so_many() -> None:
    made = Streams(most=2)
    one = made.open("admin", "")
    made.open("admin", "")
    with pytest.raises(TooManyError):
        made.open("admin", "")
    made.shut(one)
    made.open("admin", "")


async def test_streams_of_a_removed_token_end() -> None:
    made = Streams()
    hers, mine = made.open("token:0123456789ab", ""), made.open("admin", "")
    made.heard({"kind": "token", "subject": "0123456789ab"})
    assert await hers.next(1) is None
    assert len(frames(await mine.next(1))) == 1


def test_scores_are_told_and_not_kept() -> None:
    made = Streams()
    for _ in range(KEPT):
        made.heard({"kind": "scores", "subject": ""})
    assert len(vars(made)["_kept"]) == 0


@pytest.mark.parametrize("kind", ["a\nevent: b", "", "x y", "\u00e4", 7, None])
def test_an_event_cannot_break_the_form(kind: Any) -> None:
    name, data = told({"kind": kind, "subject": "a\nid: 1\n\ndata: b"}, 0.0)
    assert name == "message"
    assert "\n" not in data


def test_a_large_event_is_told_without_its_details() -> None:
    _, data = told({"kind": "node", "subject": "s" * 9000, "reason": "r" * 9000}, 0.0)
    assert len(data) < streams.LONGEST
    assert json.loads(data)["subject"] == "s" * 200

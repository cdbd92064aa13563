"""Lines of connections are valid JSON, whatever is in them."""

import json
from datetime import UTC, datetime

import pytest

from gateway.connection_log import ConnectionLog
from health.reasons import Reason


def one_line(**change: object) -> dict[str, object]:
    written: list[str] = []
    values = {
        "user": "alice",
        "country": "jp",
        "node": "jp000001",
        "reason": Reason.OK,
        "detail": "",
        "up": 1,
        "down": 2,
    }
    ConnectionLog(written.append).write("00ff", ms=12.34, **(values | change))  # type: ignore[arg-type]
    (line,) = written
    assert line.endswith("\n")
    assert line.count("\n") == 1
    return json.loads(line)  # type: ignore[no-any-return]


def test_a_line_has_what_operators_count_on() -> None:
    line = one_line(reason=Reason.REFUSED, detail="dialled from jp000001")
    said = datetime.fromisoformat(str(line.pop("ts")))
    assert abs((datetime.now(UTC) - said).total_seconds()) < 5
    assert line == {
        "level": "info",
        "event": "connection",
        "conn_id": "00ff",
        "user": "alice",
        "country": "jp",
        "node": "jp000001",
        "fault": "target",
        "reason": "refused",
        "detail": "dialled from jp000001",
        "bytes_in": 1,
        "bytes_out": 2,
        "ms": 12.3,
    }


@pytest.mark.parametrize(
    "detail", ['a "quoted" \\ one', "two\nlines\r\0", "\x1b[31m", "\udcff\ud800", "日本", "'%s{}'"]
)
def test_a_detail_is_whatever_it_is(detail: str) -> None:
    assert one_line(detail=detail)["detail"] == detail


def test_a_long_detail_is_cut() -> None:
    assert one_line(detail='"' * 10_000)["detail"] == '"' * 300


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_fault(reason: Reason) -> None:
    assert one_line(reason=reason)["reason"] == reason


def test_switched_off_it_does_nothing() -> None:
    ConnectionLog(None).write("00ff", "", "", "", Reason.OK, "", 0, 0, 0.0)

"""The supervisor's lines look like everybody's."""

import io
import json
import logging
from datetime import datetime

from gateway import log_lines
from tests.health.test_logs import _restored as restored_logging

__all__ = ["restored_logging"]


def test_lines_are_json_with_time_level_event_and_fields(restored_logging: None) -> None:
    out = io.StringIO()
    log_lines.configure("info", out)
    log = logging.getLogger("gateway.supervisor")
    log.info("worker ended", extra={"pid": 7, "reason": "Japan: 日本"})
    log.debug("not wanted")
    (line,) = [json.loads(text) for text in out.getvalue().splitlines()]
    assert datetime.fromisoformat(line.pop("ts")).utcoffset() is not None
    assert line == {"event": "worker ended", "level": "info", "pid": 7, "reason": "Japan: 日本"}


def test_an_exception_stays_on_one_line(restored_logging: None) -> None:
    out = io.StringIO()
    log_lines.configure("info", out)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("gateway").exception("failed")
    (line,) = out.getvalue().splitlines()
    assert "ValueError: two\nlines" in json.loads(line)["exception"]

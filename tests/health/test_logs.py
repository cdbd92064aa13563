"""Log lines as they leave the process."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest
import structlog

from health import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()  # configure() closes what it finds there
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_json_with_time_level_and_event() -> None:
    out = io.StringIO()
    logs.configure("info", out)
    structlog.get_logger("gateway").info("started", port=3128, path=io)
    structlog.get_logger().debug("not wanted")
    logging.getLogger("aiohttp").warning("slow %s", "thing")
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (first["level"], first["event"], first["port"]) == ("info", "started", 3128)
    assert (second["level"], second["event"]) == ("warning", "slow thing")
    for line in (first, second):
        assert datetime.fromisoformat(line["ts"]).utcoffset() is not None


def test_exceptions_stay_on_one_line() -> None:
    out = io.StringIO()
    logs.configure("info", out)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(lines) == 2
    assert all("ValueError: two\nlines" in line["exception"] for line in lines)


def test_a_terminal_gets_readable_lines() -> None:
    out = Terminal()
    logs.configure("debug", out)
    structlog.get_logger().debug("started", port=3128)
    assert "started" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_a_terminal_gets_exceptions_without_the_values_of_their_variables() -> None:
    out = Terminal()
    logs.configure("debug", out)
    password = "".join(["kept", "to", "itself"])
    try:
        raise ValueError(len(password))
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed")
    assert out.getvalue().count("ValueError: 12") == 2
    assert password not in out.getvalue()

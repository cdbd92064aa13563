import json
import os

import pytest

from health.agent import log


def test_a_line_is_one_json_object(capfd: pytest.CaptureFixture[str]) -> None:
    log.write("ended", level="error", reason='two\nlines and a "quote"')
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    found = json.loads(line)
    assert (found["event"], found["level"], found["reason"]) == ("ended", "error", 'two\nlines and a "quote"')
    assert found["ts"] > 0


def test_what_programs_write_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    output = log.Output()
    output.forward()
    os.write(output.writer, b"TLS: something\n")
    output.forward()
    assert capfd.readouterr().err == "TLS: something\n"
    os.close(output.reader)
    os.close(output.writer)


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    reader, writer = os.pipe()
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        log.never_wait()
        for _ in range(2000):
            log.write("x", text="y" * 100)
    finally:
        os.dup2(kept, 2)
        for descriptor in (reader, writer, kept):
            os.close(descriptor)

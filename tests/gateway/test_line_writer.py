"""Lines leave in order and never in the way, whoever reads them or does not."""

import asyncio
import errno
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway import line_writer
from gateway.line_writer import LINES_HELD, LineWriter
from health import logs
from tests.conftest import STALL_S
from tests.health.test_logs import _restored as restored_logging

Made = Callable[[int], LineWriter]
LINE = "x" * 199 + "\n"

__all__ = ["restored_logging"]


@pytest.fixture
async def writers() -> AsyncIterator[Made]:
    made: list[LineWriter] = []

    def make(fd: int) -> LineWriter:
        made.append(LineWriter(fd))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_lines_arrive_in_order_within_a_moment(writers: Made, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = writers(file.fileno())
        began = time.monotonic()
        for number in range(3):
            writer.add(f"{number}\n")
        await until(lambda: path.read_text() == "0\n1\n2\n")
        assert time.monotonic() - began < 1 + STALL_S
        for number in range(3, 2000):
            writer.add(f"{number}\n")
        writer.close()
    assert path.read_text().split() == [str(number) for number in range(2000)]
    assert writer.dropped == 0


async def test_a_reader_that_stops_costs_lines_and_nothing_else(writers: Made) -> None:
    reader, pipe = os.pipe()
    writer = writers(pipe)
    slowest = 0.0
    for _ in range(3 * LINES_HELD):
        began = time.monotonic()
        writer.add(LINE)
        slowest = max(slowest, time.monotonic() - began)
        if not _ % 500:
            await asyncio.sleep(0)
    assert slowest < STALL_S
    assert writer.dropped >= 2 * LINES_HELD - 1000  # what the pipe holds, and one batch on its way
    assert len(writer._lines) <= LINES_HELD
    received = bytearray()
    drain = threading.Thread(target=lambda: received.extend(b"".join(iter(lambda: os.read(reader, 1 << 16), b""))))
    drain.start()
    await until(lambda: writer._handed == writer._settled and not writer._lines)
    writer.add("back\n")
    await asyncio.to_thread(writer.close)
    os.close(pipe)
    drain.join(5)
    os.close(reader)
    lines = bytes(received).decode().splitlines(keepends=True)
    assert lines[-1] == "back\n"
    assert set(lines[:-1]) == {LINE}
    assert len(lines) - 1 + writer.dropped == 3 * LINES_HELD


async def test_a_stuck_reader_does_not_hold_up_the_end() -> None:
    reader, pipe = os.pipe()
    writer = LineWriter(pipe)
    for _ in range(2000):
        writer.add(LINE)
    await asyncio.sleep(0.2)
    began = time.monotonic()
    writer.close()
    assert time.monotonic() - began < 2 * line_writer._CLOSE_S + STALL_S
    os.close(reader)  # the thread ends with EPIPE
    await asyncio.to_thread(writer._thread.join, 5)
    assert not writer._thread.is_alive()
    os.close(pipe)


async def test_a_full_disk_costs_lines_and_is_counted(writers: Made) -> None:
    with open("/dev/full", "wb") as full:
        writer = writers(full.fileno())
        for _ in range(1000):
            writer.add(LINE)
        await until(lambda: writer.dropped == 1000)


async def test_a_closed_pipe_costs_lines_and_is_counted(writers: Made) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    writer = writers(pipe)
    for _ in range(10):
        writer.add(LINE)
    await until(lambda: writer.dropped == 10)
    os.close(pipe)


async def test_a_disk_that_fills_up_in_a_line_spoils_only_that_line(
    writers: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    real, room = os.write, 450

    def write(fd: int, data: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = real(fd, data[:room])
        room -= taken
        return taken

    with path.open("wb") as file:
        writer = writers(file.fileno())
        monkeypatch.setattr(os, "write", write)
        for _ in range(5):
            writer.add(LINE)
        await until(lambda: writer.dropped == 3)
        room = 10_000
        writer.add("again\n")
        await until(lambda: path.read_text().endswith("again\n"))
    assert path.read_text().splitlines(keepends=True) == [LINE, LINE, "x" * 50 + "\n", "again\n"]


async def test_a_pipe_that_somebody_made_non_blocking_gets_every_line(writers: Made) -> None:
    reader, pipe = os.pipe()
    os.set_blocking(pipe, False)
    writer = writers(pipe)
    for _ in range(2000):
        writer.add(LINE)
    await asyncio.sleep(0.3)
    received = b""
    while len(received) < 2000 * len(LINE):
        received += await asyncio.to_thread(os.read, reader, 1 << 16)
    assert received == LINE.encode() * 2000
    assert writer.dropped == 0
    os.close(reader)
    os.close(pipe)


async def test_loggers_of_any_thread_write_through_it(writers: Made, tmp_path: Path, restored_logging: None) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = writers(file.fileno())
        logs.configure("info", writer)
        logging.getLogger("here").warning("one")
        await asyncio.to_thread(logging.getLogger("there").warning, "two")
        await until(lambda: path.read_text().count("\n") == 2)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["one", "two"]

"""One worker process, with a stand-in for the worker."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.child import UNREAD_BYTES, Child, ChildError
from tests.gateway.stand_in_worker import install

Start = Callable[..., Awaitable[Child]]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    install(tmp_path, monkeypatch)
    made: list[Child] = []

    async def make(worker: object = None, *sockets: socket.socket, alone: bool = False, **words: Any) -> Child:
        made.append(await Child.start(worker or {}, {str(s.fileno()): s for s in sockets}, alone=alone, **words))
        return made[-1]

    yield make
    for child in made:
        child.send_signal(signal.SIGKILL)
        await child.ended()


async def test_it_is_told_inherits_and_answers(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = await start({}, listener, alone=True)
        await child.until_ready()
        assert child._state["inherited"] == [listener.getsockname()[1]]
    assert child._state["alone"] is True
    assert child._state["ignored"] == [signal.SIGINT, signal.SIGHUP]
    assert child.listening
    assert child.nodes == ["jp000001"]
    await child.ask()
    await child.ask()
    assert child.gauges == {"number": 2}
    assert child.carried == {"jp000001": 2}
    assert child.panic == {"jp": True}
    assert child.counters == {"totals": {(): [2, 0]}}


async def test_its_last_whole_word_counts(start: Start) -> None:
    child = await start()
    await child.until_ready()
    child.send_signal(signal.SIGTERM)
    assert await child.ended() == 0
    assert child.counters == {"totals": {(): [1000, 0]}}
    await child.ask()  # nobody is there: no waiting


async def test_one_that_is_killed_leaves_what_it_said(start: Start) -> None:
    child = await start()
    await child.until_ready()
    await child.ask()
    child.send_signal(signal.SIGKILL)
    assert await child.ended() == -signal.SIGKILL
    assert child.counters == {"totals": {(): [1, 0]}}


async def test_one_that_ends_at_once_is_an_error(start: Start) -> None:
    child = await start({"exit": 3})
    with pytest.raises(ChildError, match="exit code 3"):
        await child.until_ready()


async def test_not_ready_is_not_ready(start: Start) -> None:
    child = await start({"ready": False})
    async with asyncio.timeout(30):
        while not child.listening:
            await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.until_ready(), 0.3)
    assert child.listening
    assert not child.ready


async def test_one_that_is_stopped_is_not_ready_after_a_while(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    child = await start()
    await child.until_ready()
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.ask(), 0.2)
    monkeypatch.setattr("gateway.child.SILENT_S", 0.1)
    assert not child.ready


async def test_it_dies_with_its_supervisor(start: Start, tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from gateway.child import Child
async def main():
    child = await Child.start({{}}, {{}}, alone=False)
    await child.until_ready()
    print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    # The real package is imported by path before the stand-in's directory is looked at.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=tmp_path, env={**os.environ}
    )
    assert process.stdout is not None
    pid = int(json.loads(await process.stdout.readline()))
    process.kill()
    await process.wait()
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.01)


async def test_words_about_guesses_go_both_ways_beside_its_state(start: Start) -> None:
    said: list[object] = []
    child = await start(
        {"guess": ["c0000201", 1]}, failures=[("c0000202", 3.0, 1.0)], on_guess=lambda teller, word: said.append(word)
    )
    await child.until_ready()
    assert said == [["c0000201", 1]]
    assert child._state["failures"] == [["c0000202", 3.0, 1.0]]
    child.tell((bytes(4), 1))
    child.tell((bytes(8), -1))
    await child.ask()
    assert child._state["heard"] == [["00" * 4, 1], ["00" * 8, -1]]
    assert child.gauges == {"number": 1}


async def test_words_for_one_that_does_not_read_are_lost(start: Start) -> None:
    child = await start()
    await child.until_ready()
    child.send_signal(signal.SIGSTOP)
    for _ in range(50_000):
        child.tell((bytes(8), 1))
    assert child._writer.transport.get_write_buffer_size() < 2 * UNREAD_BYTES
    child.send_signal(signal.SIGCONT)
    await child.ask()
    child.send_signal(signal.SIGKILL)
    await child.ended()
    child.tell((bytes(4), 1))

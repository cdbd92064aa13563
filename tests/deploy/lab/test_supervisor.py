import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.lab import product, supervisor
from deploy.lab.shell import LabError
from deploy.lab.state import Memory, Place, choose_ports
from deploy.processes import Program, StartError


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "lab")
    place.make()
    ports = choose_ports(3128, 1080, 8080)
    place.remember(Memory(docker_host="unix:///d", own_engine=True, made_blackhole=False, ports=ports, password="x"))
    return place


@pytest.fixture
async def running(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    programs = [Program("one", ["sleep", "60"]), Program("two", ["sleep", "60"])]
    monkeypatch.setattr(product, "programs", lambda *_: programs)
    task = asyncio.create_task(supervisor.run(place))
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(supervisor._ready, place):
            assert not task.done(), task
            await asyncio.sleep(0.02)
    yield place
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(30):
        await task
    assert not place.supervisor_socket.exists()


async def _ask(place: Place, op: str, program: str = "") -> dict[str, dict[str, int]]:
    return await asyncio.to_thread(supervisor.ask, place, op, program)


async def test_a_program_stays_stopped_until_it_is_started(running: Place) -> None:
    pids = (await _ask(running, "status"))["pids"]
    assert list(pids) == ["one", "two"]
    assert list((await _ask(running, "stop", "one"))["pids"]) == ["two"]
    assert not os.path.exists(f"/proc/{pids['one']}")
    assert list((await _ask(running, "stop", "one"))["pids"]) == ["two"]
    again = (await _ask(running, "start", "one"))["pids"]
    assert set(again) == {"one", "two"}
    assert again["two"] == pids["two"]
    assert (await _ask(running, "start", "one"))["pids"] == again


async def test_what_is_not_understood_is_refused(running: Place) -> None:
    with pytest.raises(LabError, match=r"no program 'three' \(there are: one, two\)"):
        await _ask(running, "stop", "three")
    with pytest.raises(LabError, match="no operation 'burn'"):
        await _ask(running, "burn", "one")
    reader, writer = await asyncio.open_unix_connection(running.supervisor_socket)
    for line in (b"nonsense\n", b"[]\n", b"{}\n", b"\xff\n"):
        writer.write(line)
        assert "not understood" in json.loads(await reader.readline())["error"]
    writer.close()
    await writer.wait_closed()


async def test_a_program_that_does_not_start_ends_everything(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [Program("one", ["sleep", "60"]), Program("bad", ["/nonexistent"])]
    monkeypatch.setattr(product, "programs", lambda *_: programs)
    with pytest.raises(ExceptionGroup) as caught:
        await supervisor.run(place)
    assert caught.group_contains(StartError, match="bad: cannot start")


def test_without_a_lab_there_is_nobody_to_ask(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="not running"):
        supervisor.ask(Place(tmp_path), "status")
    assert not supervisor.running(Place(tmp_path))


def test_a_reused_process_id_is_not_taken_for_the_supervisor(place: Place) -> None:
    place.supervisor_pid.write_text(f"{os.getpid()}\n")
    supervisor.stop(place)

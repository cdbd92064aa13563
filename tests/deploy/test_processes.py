"""The supervisor, with real children."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from deploy.processes import Program, StartError, Supervisor
from health.process import Backoff

_BEAR = """
import os, signal, sys, time
if os.fork() == 0:
    open({grandchild!r}, "w").write(str(os.getpid()))
    time.sleep(60)
while not os.path.exists({grandchild!r}):
    time.sleep(0.01)
open({ready!r}, "w").close()
time.sleep(60)
"""


def python(code: str, name: str = "child", **options: object) -> Program:
    return Program(name, [sys.executable, "-c", textwrap.dedent(code)], **options)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(*pids: int, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"still there: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.01)


def exists(path: Path):  # type: ignore[no-untyped-def]
    async def probe() -> bool:
        return path.exists()

    return probe


async def until(condition, within: float = 20.0) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def test_waits_for_readiness_and_stops_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = """
    import signal, sys, time
    def end(*_):
        open({order!r}, "a").write({name!r})
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    open({ready!r}, "w").close()
    time.sleep(60)
    """
    async with Supervisor() as supervisor:
        for name in "ab":
            ready = tmp_path / name
            await supervisor.start(
                python(code.format(order=str(order), name=name, ready=str(ready)), name, ready=exists(ready))
            )
            assert ready.exists()
        pids = supervisor.pids
        assert list(pids) == ["a", "b"]
    assert order.read_text() == "ba"
    wait_gone(*pids.values())


async def test_program_that_ends_before_it_is_ready_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("an older line\n")
    async with Supervisor() as supervisor:
        program = python(
            "import sys; print('port taken\\n', file=sys.stderr); sys.exit(2)", log=log, ready=exists(tmp_path / "x")
        )
        with pytest.raises(StartError, match=r"^child: ended at once, exit code 2: port taken$") as caught:
            await supervisor.start(program)
        assert caught.value.exit_code == 2
        with pytest.raises(StartError, match=r"exit code 0$"):
            await supervisor.start(python("", log=log, ready=exists(tmp_path / "x")))
        assert supervisor.pids == {}


async def test_program_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    async def never() -> bool:
        seen.update(supervisor.pids)
        return False

    async with Supervisor() as supervisor:
        with pytest.raises(StartError, match=r"not ready within 0\.5 s"):
            await supervisor.start(python("import time; time.sleep(60)", ready=never, ready_within=0.5))
    wait_gone(seen["child"])


async def test_missing_program_and_second_start_are_refused() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(StartError, match="cannot start /nonexistent/program: No such file"):
            await supervisor.start(Program("child", ["/nonexistent/program"]))
        await supervisor.start(python("import time; time.sleep(60)"))
        with pytest.raises(StartError, match="is there already"):
            await supervisor.start(python(""))


async def test_ended_program_is_started_again_with_growing_delay(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = f"import time; open({str(starts)!r}, 'a').write(str(time.monotonic()) + '\\n')"
    async with Supervisor(Backoff(first=0.05, longest=0.2)) as supervisor:
        await supervisor.start(python(code))
        await until(lambda: starts.exists() and len(starts.read_text().split()) >= 5)
    times = [float(line) for line in starts.read_text().split()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap >= floor for gap, floor in zip(gaps, [0.05, 0.1, 0.2, 0.2], strict=False)), gaps


async def test_program_without_restart_stays_ended() -> None:
    async with Supervisor(Backoff(first=0.01)) as supervisor:
        await supervisor.start(python("", restart=False))
        await until(lambda: not supervisor.pids)
        await asyncio.sleep(0.2)
        assert not supervisor.pids


async def test_deaf_program_and_its_children_are_killed(tmp_path: Path) -> None:
    grandchild, ready = tmp_path / "grandchild", tmp_path / "ready"
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + _BEAR.format(
        grandchild=str(grandchild), ready=str(ready)
    )
    async with Supervisor() as supervisor:
        pid = await supervisor.start(python(code, ready=exists(ready), stop_within=0.3))
    wait_gone(pid, int(grandchild.read_text()))


async def test_kill_all_makes_stopping_quick(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"""
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open({str(ready)!r}, "w").close()
    time.sleep(60)
    """
    async with Supervisor() as supervisor:
        pid = await supervisor.start(python(code, ready=exists(ready), stop_within=30))
        stopping = asyncio.create_task(supervisor.stop_all())
        await asyncio.sleep(0.05)
        supervisor.kill_all()
        await asyncio.wait_for(stopping, 15)
    wait_gone(pid)


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pids"
    code = f"""
    import asyncio, sys
    from deploy.processes import Program, Supervisor
    async def main():
        async with Supervisor() as supervisor:
            for name in ("a", "b"):
                await supervisor.start(Program(name, [sys.executable, "-c", "import time; time.sleep(60)"]))
            open({str(pid_file)!r} + ".new", "w").write(" ".join(map(str, supervisor.pids.values())))
            import os; os.rename({str(pid_file)!r} + ".new", {str(pid_file)!r})
            await asyncio.sleep(60)
    asyncio.run(main())
    """
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=root, env=dict(os.environ)) as parent:
        deadline = time.monotonic() + 20
        while not pid_file.exists():
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.02)
        pids = [int(word) for word in pid_file.read_text().split()]
        assert all(map(alive, pids))
        parent.send_signal(signal.SIGKILL)
    wait_gone(*pids)

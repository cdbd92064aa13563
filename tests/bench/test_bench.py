"""The benchmark itself: it measures what it says it measures, and it runs, with tiny numbers, from end to end."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.bench import store
from tests.bench.__main__ import main
from tests.bench.children import BenchError, Child, cpu_seconds, descriptors, memory_bytes, tree
from tests.bench.results import NOTES, Goal, Section, document, notes, table

_BURN = "import time\nwhile time.process_time() < {}: pass\n"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[object]:
    with contextlib.ExitStack() as stack:

        def start(*words: str) -> Child:
            child = Child(words, tmp_path, user=None, pipes=True)
            stack.callback(child.close)
            return child

        yield start


def test_cpu_time_counts_living_processes_and_ended_children(started) -> None:
    child_too = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {_BURN.format(0.3)!r}])\n"
    child = started(sys.executable, "-c", child_too + _BURN.format(0.3) + "print('done', flush=True)\ninput()")
    assert child.output.readline() == b"done\n"
    assert 0.55 < cpu_seconds([child.pid]) < 2


def test_an_idle_process_costs_nothing(started) -> None:
    child = started("sleep", "60")
    before = cpu_seconds([child.pid])
    time.sleep(0.2)
    assert cpu_seconds([child.pid]) - before < 0.01


def test_memory_and_descriptors_are_those_of_the_whole_tree(started) -> None:
    inner = "data = b'x' * (20 << 20)\nfile = open('/dev/null')\nprint('ready', flush=True)\ninput()"
    child = started(sys.executable, "-c", f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {inner!r}])")
    assert child.output.readline() == b"ready\n"
    pids = tree([child.pid])
    assert len(pids) == 2
    assert memory_bytes([child.pid]) > 20 << 20
    assert descriptors([child.pid]) >= 7


def test_what_a_child_started_ends_with_it(started) -> None:
    child = started("sh", "-c", "sleep 60 & echo $!; wait")
    grandchild = int(child.output.readline())
    child.close()
    deadline = time.monotonic() + 20
    while _runs(grandchild):
        assert time.monotonic() < deadline, "the grandchild lives on"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_that_does_not_start_is_told_with_its_words(tmp_path: Path) -> None:
    child = Child(["sh", "-c", "echo no such thing >&2; exit 3"], tmp_path, user=None)
    with pytest.raises(BenchError, match="no such thing"):
        child.wait_for(lambda: False)
    child.close()


def test_a_page_says_which_goals_are_missed_and_keeps_notes(tmp_path: Path) -> None:
    section = Section("CPU", "text", table(("a", "b"), [("1", "2")]), [Goal("x", 0.7, 0.75), Goal("y", 3, 2, "ms")])
    page = document({"CPU": "some"}, [section], {"gost": "no Go"})
    assert "| x | 0.7 | ≤ 0.75 | met |" in page
    assert "| y | 3 ms | ≤ 2 ms | **missed** |" in page
    assert "- gost: no Go" in page
    old = tmp_path / "old.md"
    old.write_text(page + NOTES + "what was tried\n")
    assert notes(old) == "\n" + NOTES + "what was tried\n"
    assert notes(tmp_path / "none.md") == ""


def test_an_unknown_figure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "'speed' is not one of connect, bulk" in capsys.readouterr().err


@pytest.mark.timeout(300)  # the first run makes the load generator and, for root's Python, a venv
def test_every_figure_is_taken_beside_a_peer(able: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # More workers than one are test_store's.
    monkeypatch.setattr(store, "propagation", partial(store.propagation, followers=(1,)))
    monkeypatch.setattr(store, "usage", partial(store.usage, workers=1))
    page = tmp_path / "page.md"
    tiny = ["--count", "200", "--rounds", "1", "--clients", "8", "--gigabytes", "0.05", "--latency-seconds", "0.5"]
    status = main(
        [*tiny, "--rate", "100", "--tunnels", "100", "--connections", "400", "--peers", "haproxy", "--write", str(page)]
    )
    assert status == 0
    text = page.read_text()
    titles = (
        "CPU per connection",
        "CPU per gigabyte",
        "Latency",
        "Where it goes",
        "Tunnels at once",
        "Endurance",
        "API",
        "Scorer",
        "Propagation",
        "Redis",
    )
    assert [title for title in titles if f"## {title}\n" not in text] == []
    for lane in ("gateway + agent, HTTP CONNECT", "gateway + agent, SOCKS5", "haproxy, TCP"):
        assert text.count(f"| {lane} |") >= 4, lane
    assert "| of 100 tunnels, how many do not pass bytes at the end | 0 | ≤ 0 | met |" in text
    assert "| failed, of 400 through one worker | 0 | ≤ 0 | met |" in text
    _nothing_is_left()


def _nothing_is_left() -> None:
    assert list(Path(tempfile.gettempdir()).glob(f"vpnexit-bench-{os.getpid()}-*")) == []
    mine = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True, check=False).stdout.split()
    for pid in mine:
        assert "vpnexit-bench" not in Path(f"/proc/{pid}/cmdline").read_text()
